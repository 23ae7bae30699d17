//! Images into templates on a host, as the control plane asks for them.

use bytes::Bytes;
use futures::StreamExt as _;
use sandbar_control::host_client::{
    HostClient, HostError, ImageSource, ImportEvent, ImportImage, Imported, Reason, RegistryCredentials,
};
use sandbar_testkit::sim_host::{Fault, Rpc, Times};
use sandbar_types::Id;

use crate::support::World;

fn of(source: ImageSource) -> ImportImage {
    ImportImage { template: Id::new(), source, vcpus: 2, memory_mb: 512, disk_mb: 2048 }
}

fn registry(reference: &str, password: Option<&str>) -> ImageSource {
    let credentials = password
        .map(|password| RegistryCredentials { username: "me".into(), password: password.to_owned().into() });
    ImageSource::Registry { reference: reference.to_owned(), credentials }
}

async fn import(client: &HostClient, import: ImportImage) -> Result<(Imported, Vec<ImportEvent>), HostError> {
    let mut told = Vec::new();
    let imported = client.import_image(import).await?.finish(|event| told.push(event)).await?;
    Ok((imported, told))
}

#[tokio::test]
async fn an_image_becomes_a_template_and_says_how_it_is_run() {
    let world = World::new().await;
    let client = world.control.host_clients().get(world.host_id, &world.host.address());
    let order = of(registry("debian:12", None));
    let id = order.template;
    let (imported, told) = import(&client, order).await.unwrap();
    assert_eq!(imported.template.id, id.to_string());
    assert_eq!(
        (imported.template.vcpus, imported.template.memory_mb, imported.template.disk_mb),
        (2, 512, 2048)
    );
    assert_eq!((imported.config.user.as_str(), imported.config.workdir.as_str()), ("sim", "/srv"));
    assert_eq!(imported.config.env, [("SIM".to_owned(), "1".to_owned())]);
    assert_eq!(
        (imported.config.entrypoint, imported.config.cmd),
        (vec!["/entry".into()], vec!["serve".into()])
    );
    assert!(matches!(&told[..], [ImportEvent::Progress { bytes_done: 1, bytes_total: 2, .. }]), "{told:?}");
    assert!(import(&client, of(registry("team/private", Some("open sesame")))).await.is_ok());
}

#[tokio::test]
async fn every_refusal_has_its_reason() {
    let world = World::new().await;
    let client = world.control.host_clients().get(world.host_id, &world.host.address());
    for (name, reason) in [
        ("missing", Reason::REASON_IMAGE_NOT_FOUND),
        ("private", Reason::REASON_IMAGE_NOT_AUTHORISED),
        ("arm", Reason::REASON_IMAGE_NO_PLATFORM),
        ("huge", Reason::REASON_IMAGE_TOO_LARGE),
        ("broken", Reason::REASON_IMAGE_BROKEN),
        ("mute", Reason::REASON_IMAGE_DOES_NOT_BOOT),
        ("unreachable", Reason::REASON_REGISTRY_FAILED),
    ] {
        let refused = import(&client, of(registry(name, None))).await.unwrap_err();
        assert_eq!(refused.reason(), Some(reason), "{refused}");
    }
    world.host.inject(Rpc::ImportImage, Fault::LoseReply, Times::Once);
    let lost = import(&client, of(registry("debian", None))).await.unwrap_err();
    assert!(matches!(lost, HostError::Unreachable(_)), "{lost}");
}

#[tokio::test]
async fn an_archive_is_sent_whole_or_not_taken() {
    let world = World::new().await;
    let client = world.control.host_clients().get(world.host_id, &world.host.address());
    let chunks = || (0..20).map(|_| Ok(Bytes::from(vec![7; 300_000])));
    let whole = ImageSource::Archive(futures::stream::iter(chunks()).boxed());
    assert!(import(&client, of(whole)).await.is_ok());
    let broken = chunks().chain([Err(std::io::ErrorKind::UnexpectedEof.into())]);
    let cut = ImageSource::Archive(futures::stream::iter(broken).boxed());
    let refused = import(&client, of(cut)).await.unwrap_err();
    assert_eq!(refused.reason(), Some(Reason::REASON_BAD_INPUT), "{refused}");
}
