//! Parts of templates, from and to a host.

use std::time::Duration;

use sandbar_proto::host;
use sandbar_types::Id;
use sandbar_types::id::Template;

use super::client::{HostClient, within};
use super::error::HostError;

impl HostClient {
    /// What a template of the host consists of.
    pub(crate) async fn open_template(
        &self,
        id: Id<Template>,
        limit: Duration,
    ) -> Result<host::OpenTemplateResponse, HostError> {
        let request = host::OpenTemplateRequest { id: id.to_string(), ..Default::default() };
        Ok(self.call(self.rpc().open_template_with_options(request, within(limit))).await?.into_owned())
    }

    /// One part of one of its files.
    pub(crate) async fn read_template_part(
        &self,
        id: Id<Template>,
        file: &str,
        index: u32,
        limit: Duration,
    ) -> Result<host::FilePart, HostError> {
        let request = host::ReadTemplatePartRequest {
            id: id.to_string(),
            file: file.to_owned(),
            index,
            ..Default::default()
        };
        let answer = self.call(self.rpc().read_template_part_with_options(request, within(limit))).await?;
        answer.into_owned().part.into_option().ok_or(HostError::Protocol("no part in the answer"))
    }

    /// Has the host receive a template, or go on with it: what of it is there.
    pub(crate) async fn receive_template(
        &self,
        id: Id<Template>,
        manifest: Vec<u8>,
        size_bytes: u64,
        limit: Duration,
    ) -> Result<host::ReceiveTemplateResponse, HostError> {
        let request =
            host::ReceiveTemplateRequest { id: id.to_string(), manifest, size_bytes, ..Default::default() };
        Ok(self.call(self.rpc().receive_template_with_options(request, within(limit))).await?.into_owned())
    }

    /// Hands a part over.
    pub(crate) async fn write_template_part(
        &self,
        id: Id<Template>,
        file: String,
        index: u32,
        part: host::FilePart,
        limit: Duration,
    ) -> Result<(), HostError> {
        let request = host::WriteTemplatePartRequest {
            id: id.to_string(),
            file,
            index,
            part: part.into(),
            ..Default::default()
        };
        self.call(self.rpc().write_template_part_with_options(request, within(limit))).await?;
        Ok(())
    }

    /// Has the host check what it received, and publish it.
    pub(crate) async fn commit_template(&self, id: Id<Template>, limit: Duration) -> Result<(), HostError> {
        let request = host::CommitTemplateRequest { id: id.to_string(), ..Default::default() };
        self.call(self.rpc().commit_template_with_options(request, within(limit))).await?;
        Ok(())
    }
}
