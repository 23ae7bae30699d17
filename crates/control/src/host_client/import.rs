//! Images that others made, into templates: what a host is asked, and how it says how far it is.

use std::io;
use std::pin::Pin;

use bytes::Bytes;
use connectrpc::client::{BidiRecvHalf, BidiSendHalf};
use futures::{Stream, StreamExt as _};
use sandbar_proto::host;
use sandbar_proto::host::import_image_request::{Credentials, Request, Start};
use sandbar_proto::host::import_image_response::Response;
use sandbar_types::Id;
use sandbar_types::id::Template;
use secrecy::{ExposeSecret as _, SecretString};
use tokio_util::task::AbortOnDropHandle;

use super::HostError;
use super::client::{HostClient, ResponseBody};

/// The most that one message carries.
const CHUNK: usize = 256 * 1024;

/// The content of an archive, as it comes.
pub type Archive = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// Where an image comes from.
pub enum ImageSource {
    /// A registry.
    Registry {
        /// The image's name, as `docker pull` takes it.
        reference: String,
        /// Anonymous where there are none.
        credentials: Option<RegistryCredentials>,
    },
    /// An archive: OCI's layout or `docker save`'s form. One that ends in an error is no archive.
    Archive(Archive),
}

/// Who asks a registry.
#[derive(Debug, Clone)]
pub struct RegistryCredentials {
    /// Name of the user.
    pub username: String,
    /// Password or access token.
    pub password: SecretString,
}

/// What a template is made of, and how large its machine is to be.
pub struct ImportImage {
    /// The template's id: asking again is safe.
    pub template: Id<Template>,
    /// Where the image comes from.
    pub source: ImageSource,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Memory in MiB.
    pub memory_mb: u32,
    /// Disk in MiB.
    pub disk_mb: u32,
}

/// How an import goes.
#[derive(Debug, Clone, PartialEq)]
pub enum ImportEvent {
    /// It goes on.
    Progress {
        /// What is being done, for people.
        message: String,
        /// Of that, what is done; 0 where that is not known.
        bytes_done: u64,
        /// Of that, what there is; 0 where that is not known.
        bytes_total: u64,
    },
    /// It is done.
    Done(Box<Imported>),
}

/// A template that was made of an image.
#[derive(Debug, Clone, PartialEq)]
pub struct Imported {
    /// The template, as the host has it.
    pub template: host::Template,
    /// How the image says that it is run.
    pub config: ImageDefaults,
}

/// How an image says that it is run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImageDefaults {
    /// Environment, in the image's order.
    pub env: Vec<(String, String)>,
    /// `USER`, `UID`, or either with `:GROUP`; empty for root.
    pub user: String,
    /// Empty for `/`.
    pub workdir: String,
    /// What is run, before what the caller gives.
    pub entrypoint: Vec<String>,
    /// What is run, or what the entrypoint is given, where the caller gives nothing.
    pub cmd: Vec<String>,
}

/// An import under way. Dropping it ends it, and the host keeps nothing of it.
pub struct ImportStream {
    replies: BidiRecvHalf<ResponseBody, host::ImportImageResponseView<'static>>,
    ended: bool,
    _upload: AbortOnDropHandle<()>,
}

impl HostClient {
    /// Begins to make a template of an image. The call has no deadline of its own.
    pub async fn import_image(&self, import: ImportImage) -> Result<ImportStream, HostError> {
        let ImportImage { template, source, vcpus, memory_mb, disk_mb } = import;
        let (reference, credentials, archive) = match source {
            ImageSource::Registry { reference, credentials } => (reference, credentials, None),
            ImageSource::Archive(archive) => (String::new(), None, Some(archive)),
        };
        let credentials = credentials.map(|RegistryCredentials { username, password }| Credentials {
            username,
            password: password.expose_secret().to_owned(),
            ..Default::default()
        });
        let start = Start {
            template_id: template.to_string(),
            reference,
            credentials: credentials.into(),
            vcpus,
            memory_mb,
            disk_mb,
            ..Default::default()
        };
        let mut call = self.call(self.rpc().import_image()).await?;
        call.send(request(Request::from(start))).await?;
        let (sender, replies) = call.into_split();
        let upload = tokio::spawn(async move {
            // Why it is not read to its end is in the replies.
            let _ = upload(sender, archive).await;
        });
        Ok(ImportStream { replies, ended: false, _upload: AbortOnDropHandle::new(upload) })
    }
}

impl ImportStream {
    /// The next event; none after the end. A stream that ends before the import is an error.
    pub async fn next(&mut self) -> Result<Option<ImportEvent>, HostError> {
        if self.ended {
            return Ok(None);
        }
        let Some(message) = self.replies.message().await? else {
            return Err(HostError::Protocol("the stream ended before the import"));
        };
        Ok(Some(match message.to_owned_message().response {
            Some(Response::Progress(progress)) => ImportEvent::Progress {
                message: progress.message,
                bytes_done: progress.bytes_done,
                bytes_total: progress.bytes_total,
            },
            Some(Response::Done(done)) => {
                self.ended = true;
                let template = done.template.into_option();
                let template = template.ok_or(HostError::Protocol("no template in the answer"))?;
                let config = done.config.into_option().map(ImageDefaults::from).unwrap_or_default();
                ImportEvent::Done(Box::new(Imported { template, config }))
            }
            None => return Err(HostError::Protocol("an empty event of an import")),
        }))
    }

    /// Waits for the end, and tells `progress` of all that comes before it.
    pub async fn finish(mut self, mut progress: impl FnMut(ImportEvent)) -> Result<Imported, HostError> {
        loop {
            match self.next().await? {
                Some(ImportEvent::Done(imported)) => return Ok(*imported),
                Some(event) => progress(event),
                None => return Err(HostError::Protocol("the stream ended before the import")),
            }
        }
    }
}

impl From<host::ImageConfig> for ImageDefaults {
    fn from(config: host::ImageConfig) -> Self {
        let host::ImageConfig { env, user, workdir, entrypoint, cmd, .. } = config;
        let env = env.into_iter().map(|variable| (variable.name, variable.value)).collect();
        Self { env, user, workdir, entrypoint, cmd }
    }
}

/// Sends an archive, and that it was whole. One that breaks off ends the requests without that.
async fn upload(
    mut sender: BidiSendHalf<host::ImportImageRequest>,
    archive: Option<Archive>,
) -> Result<(), HostError> {
    if let Some(mut archive) = archive {
        while let Some(content) = archive.next().await {
            let Ok(mut content) = content else {
                tracing::info!("an archive of an image broke off");
                sender.close_send();
                return Ok(());
            };
            while !content.is_empty() {
                let chunk = content.split_to(content.len().min(CHUNK));
                sender.send(request(Request::Chunk(chunk.into()))).await?;
            }
        }
        sender.send(request(Request::End(true))).await?;
    }
    sender.close_send();
    Ok(())
}

fn request(request: Request) -> host::ImportImageRequest {
    host::ImportImageRequest { request: Some(request), ..Default::default() }
}
