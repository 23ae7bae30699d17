//! The documents that describe an image: index, manifest, configuration. OCI's and Docker's differ in their media types alone.

use sandbar_types::Arch;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::digest::Digest;
use crate::error::ImageError;
use crate::image::RunConfig;

/// The most bytes that a document may have. Registries bound manifests in the same way.
pub(crate) const DOCUMENT_BYTES: u64 = 4 << 20;
/// The most layers that an image may have: what overlays allow is less than that.
const LAYERS: usize = 512;

/// What a registry is told that we understand.
pub(crate) const ACCEPTED: [&str; 4] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];

/// What points to a blob.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    pub(crate) platform: Option<Platform>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Platform {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
}

impl Platform {
    fn is(&self, arch: Arch) -> bool {
        self.os == "linux" && self.architecture == oci_name(arch)
    }

    fn describe(&self) -> String {
        format!("{} on {}", self.os, self.architecture)
    }
}

/// OCI calls processors as Go does.
pub(crate) const fn oci_name(arch: Arch) -> &'static str {
    match arch {
        Arch::X86_64 => "amd64",
        Arch::Aarch64 => "arm64",
    }
}

/// A manifest, or an index of manifests.
#[derive(Debug)]
pub(crate) enum Document {
    Index(Vec<Descriptor>),
    Manifest(Manifest),
}

#[derive(Debug)]
pub(crate) struct Manifest {
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
}

impl Document {
    pub(crate) fn read(text: &[u8]) -> Result<Self, ImageError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Either {
            schema_version: Option<u32>,
            manifests: Option<Vec<Descriptor>>,
            config: Option<Descriptor>,
            layers: Option<Vec<Descriptor>>,
        }
        let Either { schema_version, manifests, config, layers } = json("manifest", text)?;
        match (manifests, config, layers) {
            (Some(manifests), None, None) => Ok(Self::Index(manifests)),
            (None, Some(config), Some(layers)) => {
                if layers.len() > LAYERS {
                    return Err(ImageError::TooLarge(format!(
                        "it has {} layers, and {LAYERS} are possible",
                        layers.len()
                    )));
                }
                // Charts, policies and signatures are kept in registries too.
                if let Some(other) = layers.iter().find(|layer| !layer.media_type.contains("tar")) {
                    return Err(ImageError::broken(format!(
                        "{:?} is no layer of a filesystem",
                        other.media_type
                    )));
                }
                Ok(Self::Manifest(Manifest { config, layers }))
            }
            _ if schema_version == Some(1) => Err(ImageError::broken(
                "its manifest is in a form that was given up in 2017; pushing the image anew with a current tool mends that",
            )),
            _ => Err(ImageError::broken("its manifest is neither an image's nor an index of images")),
        }
    }
}

/// Those of an index that are for a processor.
pub(crate) fn choose(manifests: &[Descriptor], arch: Arch) -> Result<Vec<&Descriptor>, ImageError> {
    // One without a platform is what its configuration says.
    let fits = |manifest: &&Descriptor| manifest.platform.as_ref().is_none_or(|platform| platform.is(arch));
    let chosen: Vec<_> = manifests.iter().filter(fits).collect();
    if chosen.is_empty() {
        let mut available: Vec<_> = manifests
            .iter()
            .filter_map(|manifest| manifest.platform.as_ref())
            .map(Platform::describe)
            .collect();
        available.sort_unstable();
        available.dedup();
        available.truncate(32);
        return Err(ImageError::NoPlatform { wanted: arch, available: available.join(", ") });
    }
    Ok(chosen)
}

/// What is read of an image's configuration.
#[derive(Debug)]
pub(crate) struct Configuration {
    pub(crate) run: RunConfig,
    /// The digests of the layers' contents, decompressed.
    pub(crate) contents: Vec<Digest>,
}

impl Configuration {
    /// Reads it, and refuses one of another platform, or of another number of layers.
    pub(crate) fn read(text: &[u8], arch: Arch, layers: usize) -> Result<Self, ImageError> {
        #[derive(Deserialize)]
        struct Document {
            #[serde(flatten)]
            platform: Platform,
            config: Option<Run>,
            rootfs: RootFs,
        }
        #[derive(Deserialize)]
        struct RootFs {
            #[serde(default)]
            diff_ids: Option<Vec<Digest>>,
        }
        #[derive(Deserialize, Default)]
        #[serde(rename_all = "PascalCase")]
        struct Run {
            env: Option<Vec<String>>,
            user: Option<String>,
            working_dir: Option<String>,
            entrypoint: Option<Vec<String>>,
            cmd: Option<Vec<String>>,
        }
        let Document { platform, config, rootfs } = json("configuration", text)?;
        if !platform.is(arch) {
            return Err(ImageError::NoPlatform { wanted: arch, available: platform.describe() });
        }
        let contents = rootfs.diff_ids.unwrap_or_default();
        if contents.len() != layers {
            return Err(ImageError::broken(format!(
                "it has {layers} layers, and describes {}",
                contents.len()
            )));
        }
        let Run { env, user, working_dir, entrypoint, cmd } = config.unwrap_or_default();
        let env = env.unwrap_or_default().into_iter().filter_map(|pair| {
            let (name, value) = pair.split_once('=')?;
            (!name.is_empty()).then(|| (name.to_owned(), value.to_owned()))
        });
        let run = RunConfig {
            env: env.collect(),
            user: user.unwrap_or_default(),
            workdir: working_dir.unwrap_or_default(),
            entrypoint: entrypoint.unwrap_or_default(),
            cmd: cmd.unwrap_or_default(),
        };
        Ok(Self { run, contents })
    }
}

pub(crate) fn json<T: DeserializeOwned>(what: &str, text: &[u8]) -> Result<T, ImageError> {
    serde_json::from_slice(text)
        .map_err(|error| ImageError::broken(format!("its {what} cannot be read: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(platform: &str) -> String {
        let digest = Digest::of(platform.as_bytes());
        format!(r#"{{"mediaType":"x.tar","digest":"{digest}","size":3{platform}}}"#)
    }

    #[test]
    fn an_index_gives_what_is_for_the_processor() {
        let of = |os: &str, arch: &str| {
            descriptor(&format!(r#","platform":{{"os":"{os}","architecture":"{arch}"}}"#))
        };
        let index =
            [of("linux", "arm64"), of("windows", "amd64"), of("linux", "amd64"), of("unknown", "unknown")]
                .join(",");
        let Document::Index(manifests) =
            Document::read(format!(r#"{{"manifests":[{index}]}}"#).as_bytes()).unwrap()
        else {
            panic!("no index")
        };
        let chosen = choose(&manifests, Arch::X86_64).unwrap();
        assert_eq!(chosen.len(), 1);
        assert_eq!(chosen[0].digest, manifests[2].digest);
        let without = [manifests[1].clone(), manifests[3].clone()];
        let Err(ImageError::NoPlatform { available, .. }) = choose(&without, Arch::X86_64) else {
            panic!("found")
        };
        assert_eq!(available, "unknown on unknown, windows on amd64");
    }

    #[test]
    fn what_is_no_image_says_so() {
        for (text, word) in [
            ("{", "cannot be read"),
            ("{}", "neither"),
            (r#"{"schemaVersion":1,"fsLayers":[]}"#, "2017"),
            (r#"{"manifests":[{"digest":"md5:1","size":1}]}"#, "digest"),
            (
                r#"{"manifests":[{"digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":-1}]}"#,
                "cannot be read",
            ),
        ] {
            let error = Document::read(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
        let chart = descriptor("").replace("x.tar", "application/vnd.wasm");
        let manifest = format!(r#"{{"config":{},"layers":[{chart}]}}"#, descriptor(""));
        assert!(Document::read(manifest.as_bytes()).unwrap_err().to_string().contains("wasm"));
    }

    #[test]
    fn a_configuration_says_how_to_run() {
        let digest = Digest::of(b"");
        let text = format!(
            r#"{{"os":"linux","architecture":"amd64","rootfs":{{"diff_ids":["{digest}"]}},
                "config":{{"Env":["A=b=c","PATH=/x","=no","none"],"User":"1000:5","WorkingDir":"/w","Entrypoint":["a","b"],"Cmd":null}}}}"#
        );
        let read = Configuration::read(text.as_bytes(), Arch::X86_64, 1).unwrap();
        let expected = RunConfig {
            env: vec![("A".into(), "b=c".into()), ("PATH".into(), "/x".into())],
            user: "1000:5".into(),
            workdir: "/w".into(),
            entrypoint: vec!["a".into(), "b".into()],
            cmd: vec![],
        };
        assert_eq!((read.run, read.contents), (expected, vec![digest]));
        assert!(matches!(Configuration::read(text.as_bytes(), Arch::X86_64, 2), Err(ImageError::Broken(_))));
        assert!(matches!(
            Configuration::read(text.as_bytes(), Arch::Aarch64, 1),
            Err(ImageError::NoPlatform { .. })
        ));
    }
}
