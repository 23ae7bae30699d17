//! `files/write` and `files/read`: streamed, whatever the size.

use reqwest::multipart::{Form, Part};
use reqwest::{Body, Method};
use sandbar_types::{Id, id};
use serde_json::json;

use super::{Client, ClientError};

impl Client {
    /// Writes a file in a sandbox; it appears whole or not at all. `length` is told to the platform where it is known.
    pub(crate) async fn write_file(
        &self,
        id: Id<id::Sandbox>,
        path: &str,
        user: Option<&str>,
        contents: Body,
        length: Option<u64>,
    ) -> Result<(), ClientError> {
        let file = match length {
            Some(length) => Part::stream_with_length(contents, length),
            None => Part::stream(contents),
        };
        let mut form = Form::new().text("path", path.to_owned());
        if let Some(user) = user {
            form = form.text("user", user.to_owned());
        }
        // Last: the platform reads the parts as they come.
        let form = form.part("file", file.file_name("file"));
        let request = self.request(Method::POST, &format!("/v1/sandboxes/{id}/files/write"));
        self.open(request.multipart(form)).await?;
        Ok(())
    }

    /// Opens a file in a sandbox for reading. A connection that breaks half-way is an error of the answer's body.
    pub(crate) async fn read_file(
        &self,
        id: Id<id::Sandbox>,
        path: &str,
        user: Option<&str>,
    ) -> Result<reqwest::Response, ClientError> {
        let body = match user {
            Some(user) => json!({ "path": path, "user": user }),
            None => json!({ "path": path }),
        };
        self.open(self.request(Method::POST, &format!("/v1/sandboxes/{id}/files/read")).json(&body)).await
    }
}
