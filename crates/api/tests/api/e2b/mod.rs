//! E2B's control API on the wire. What its SDKs make of it is in `sdk`.

mod access;
mod builds;
mod lists;
mod logs;
mod sandboxes;
mod sdk;
mod secrets;
mod snapshots;
mod volumes;

use serde_json::{Value, json};

use crate::client::{Answer, Client};

/// The message of a refusal in E2B's form.
#[track_caller]
fn refused(answer: &Answer, status: u16) -> String {
    assert_eq!((answer.status, &answer.body["code"]), (status, &json!(status)), "{}", answer.body);
    assert!(answer.body.get("error").is_none(), "{}", answer.body);
    answer.body["message"].as_str().unwrap().to_owned()
}

impl Client {
    /// Makes a sandbox as E2B's clients do; its id.
    async fn made(&self, mut body: Value) -> String {
        body["templateID"] = json!("base");
        let made = self.post("/v2/sandboxes", body).await.expect(201);
        made["sandboxID"].as_str().unwrap().to_owned()
    }

    async fn detail(&self, id: &str) -> Value {
        self.get(&format!("/sandboxes/{id}")).await.expect(200)
    }
}
