//! Images that become templates: what a simulated host says of them.

use std::pin::Pin;

use connectrpc::{ConnectError, InboundStream};
use futures::{Stream, StreamExt as _, stream};
use rpc::import_image_request::{Request, Start};
use rpc::import_image_response::{Done, Progress, Response};
use sandbar_proto::host as rpc;

use super::faults::{Reply, refusal};
use super::{Agent, Reason};

type Replies = Pin<Box<dyn Stream<Item = Result<rpc::ImportImageResponse, ConnectError>> + Send>>;

/// Any image is there, unless its name says why it is not: `missing`, `private`, `arm`, `huge`, `broken`, `mute`, `unreachable`. An
/// archive is an image if it holds anything.
pub(super) async fn answer(
    agent: &Agent,
    mut requests: InboundStream<rpc::ImportImageRequest>,
    reply: Reply,
) -> Result<Replies, ConnectError> {
    let first = requests.next().await.transpose()?.and_then(|request| request.to_owned_message().request);
    let Some(Request::Start(start)) = first else { return Err(refusal(Reason::REASON_BAD_INPUT)) };
    let mut replies = vec![Ok(progress("fetching the image", 1, 2))];
    let made = match image(&start, requests).await {
        Ok(bytes) => {
            if start.reference.is_empty() {
                replies = vec![Ok(progress(&format!("an archive of {bytes} bytes"), 0, 0))];
            }
            let size = (start.vcpus, start.memory_mb, start.disk_mb);
            Ok(agent.inventory().make_template(start.template_id, size))
        }
        Err(reason) => Err(refusal(reason)),
    };
    match (made, reply) {
        (Err(error), _) => replies.push(Err(error)),
        (Ok(_), Reply::Lose) => replies.push(Err(ConnectError::unavailable("the connection broke"))),
        (Ok(_), Reply::Never) => return Ok(Box::pin(stream::iter(replies).chain(stream::pending()))),
        (Ok(template), Reply::Deliver) => replies.push(Ok(done(template))),
    }
    Ok(Box::pin(stream::iter(replies)))
}

/// Takes the image: how large its archive is.
async fn image(start: &Start, mut requests: InboundStream<rpc::ImportImageRequest>) -> Result<usize, Reason> {
    if start.reference.is_empty() {
        let mut bytes = 0;
        while let Some(Ok(request)) = requests.next().await {
            match request.to_owned_message().request {
                Some(Request::Chunk(chunk)) => bytes += chunk.len(),
                Some(Request::End(true)) if bytes > 0 => return Ok(bytes),
                Some(Request::End(true)) => return Err(Reason::REASON_IMAGE_BROKEN),
                _ => break,
            }
        }
        return Err(Reason::REASON_BAD_INPUT);
    }
    let refusals = [
        ("missing", Reason::REASON_IMAGE_NOT_FOUND),
        ("private", Reason::REASON_IMAGE_NOT_AUTHORISED),
        ("arm", Reason::REASON_IMAGE_NO_PLATFORM),
        ("huge", Reason::REASON_IMAGE_TOO_LARGE),
        ("broken", Reason::REASON_IMAGE_BROKEN),
        ("mute", Reason::REASON_IMAGE_DOES_NOT_BOOT),
        ("unreachable", Reason::REASON_REGISTRY_FAILED),
    ];
    let refused = refusals.iter().find(|(name, _)| start.reference.ends_with(name));
    // With the right password a private image is there.
    let password = start.credentials.as_option().map(|credentials| credentials.password.as_str());
    match refused {
        Some((_, Reason::REASON_IMAGE_NOT_AUTHORISED)) if password == Some("open sesame") => Ok(0),
        Some((_, reason)) => Err(*reason),
        None => Ok(0),
    }
}

fn progress(message: &str, bytes_done: u64, bytes_total: u64) -> rpc::ImportImageResponse {
    reply(Response::from(Progress {
        message: message.to_owned(),
        bytes_done,
        bytes_total,
        ..Default::default()
    }))
}

fn done(template: rpc::Template) -> rpc::ImportImageResponse {
    let variable =
        rpc::image_config::Variable { name: "SIM".into(), value: "1".into(), ..Default::default() };
    let config = rpc::ImageConfig {
        env: vec![variable],
        user: "sim".into(),
        workdir: "/srv".into(),
        entrypoint: vec!["/entry".into()],
        cmd: vec!["serve".into()],
        ..Default::default()
    };
    reply(Response::from(Done { template: template.into(), config: config.into(), ..Default::default() }))
}

fn reply(response: Response) -> rpc::ImportImageResponse {
    rpc::ImportImageResponse { response: Some(response), ..Default::default() }
}
