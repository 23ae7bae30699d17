//! Keys of the platform: random, in the database, sealed with the master key, which is not in the database. A dump of the database
//! alone lets nobody in.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sandbar_store::{Store, StoreError};
use sandbar_types::Id;
use sandbar_types::id::{Build, Sandbox, Secret, Volume};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

/// First byte of a sealed secret: how it is sealed.
const SEAL_VERSION: u8 = 1;
const NONCE_BYTES: usize = 12;

/// Why a secret cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The master key's text is not one.
    #[error("the master key must be 64 hexadecimal digits")]
    MasterKeyForm,
    /// The master key's file cannot be used.
    #[error("cannot use the master key in {path}")]
    MasterKeyFile {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The master key is another than the one that sealed it.
    #[error(
        "the master key does not open {name:?}: the database belongs to another installation, or the key was replaced"
    )]
    WrongMasterKey {
        /// Which secret.
        name: &'static str,
    },
    /// A secret is not what it should be.
    #[error("the secret {name:?} is damaged")]
    Damaged {
        /// Which.
        name: &'static str,
    },
    /// The database failed.
    #[error("the database failed")]
    Store(#[from] StoreError),
}

/// Seals the platform's secrets.
#[derive(Clone)]
pub struct MasterKey([u8; 32]);

impl MasterKey {
    /// From 64 hexadecimal digits (of an environment variable, or a file), white space around them ignored.
    pub fn from_hex(text: &str) -> Result<Self, SecretError> {
        let mut key = [0; 32];
        hex::decode_to_slice(text.trim(), &mut key).map_err(|_| SecretError::MasterKeyForm)?;
        Ok(Self(key))
    }

    /// From a file, which is made (mode 0600) when there is none. Of several that make it at once, all get the same key.
    pub fn load_or_create(path: &Path) -> Result<Self, SecretError> {
        let failed = |source| SecretError::MasterKeyFile { path: path.to_owned(), source };
        match fs::read_to_string(path) {
            Ok(text) => return Self::from_hex(&text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        create_file(path, &hex::encode(random::<32>())).map_err(failed)?;
        Self::from_hex(&fs::read_to_string(path).map_err(failed)?)
    }

    fn cipher(&self) -> RandomizedNonceKey {
        RandomizedNonceKey::new(&AES_256_GCM, &self.0).expect("32 bytes are an AES-256 key")
    }

    /// Encrypts a secret. Its name is authenticated with it, so that two cannot be exchanged.
    fn seal(&self, name: &str, secret: &[u8]) -> Vec<u8> {
        let mut body = secret.to_vec();
        let nonce = self
            .cipher()
            .seal_in_place_append_tag(Aad::from(name), &mut body)
            .expect("a key's length of bytes can be sealed");
        [&[SEAL_VERSION], nonce.as_ref().as_slice(), &body].concat()
    }

    fn open(&self, name: &'static str, sealed: &[u8]) -> Result<Vec<u8>, SecretError> {
        self.open_of(name, name, sealed)
    }

    /// Decrypts what was sealed under `of`; errors call it `name`.
    fn open_of(&self, name: &'static str, of: &str, sealed: &[u8]) -> Result<Vec<u8>, SecretError> {
        let damaged = || SecretError::Damaged { name };
        let (version, rest) = sealed.split_first().ok_or_else(damaged)?;
        let (nonce, body) = rest.split_first_chunk::<NONCE_BYTES>().ok_or_else(damaged)?;
        if *version != SEAL_VERSION {
            return Err(damaged());
        }
        let mut body = body.to_vec();
        let opened = self.cipher().open_in_place(Nonce::from(nonce), Aad::from(of), &mut body);
        opened.map(|secret| secret.to_vec()).map_err(|_| SecretError::WrongMasterKey { name })
    }

    /// The secret of this name; `make` makes it at the first start. Of several replicas that start at once, all get the same one.
    pub(crate) async fn secret(
        &self,
        store: &Store,
        name: &'static str,
        make: impl FnOnce() -> Vec<u8>,
    ) -> Result<Vec<u8>, SecretError> {
        let sealed = match store.secret_find(name).await? {
            Some(sealed) => sealed,
            None => store.secret_keep(name, &self.seal(name, &make())).await?,
        };
        self.open(name, &sealed)
    }
}

impl MasterKey {
    /// Replaces the secret of this name, which must exist, by what `next` makes of it. Of several who do so at once, each starts
    /// from what the one before it left.
    pub(crate) async fn replace_secret(
        &self,
        store: &Store,
        name: &'static str,
        next: impl Fn(&[u8]) -> Option<Vec<u8>>,
    ) -> Result<(), SecretError> {
        let damaged = || SecretError::Damaged { name };
        loop {
            let before = store.secret_find(name).await?.ok_or_else(damaged)?;
            let after = next(&self.open(name, &before)?).ok_or_else(damaged)?;
            if store.secret_replace(name, &before, &self.seal(name, &after)).await? {
                return Ok(());
            }
        }
    }
}

/// Makes a file that appears with all its contents or not at all, and never replaces one.
fn create_file(path: &Path, contents: &str) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let temporary = folder.join(format!(".{}.tmp", Uuid::new_v4().simple()));
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(&temporary)?;
    let written = file.write_all(contents.as_bytes()).and_then(|()| file.sync_all());
    // A link, unlike a rename, fails where the name is taken.
    let linked = written.and_then(|()| match fs::hard_link(&temporary, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    });
    fs::remove_file(&temporary)?;
    linked?;
    File::open(folder)?.sync_all()
}

/// Derives the tokens of each sandbox and each volume, so that none is stored anywhere.
#[derive(Clone)]
pub(crate) struct GuestKey([u8; 32]);

impl GuestKey {
    const NAME: &str = "guest-token-key";

    pub(crate) async fn load(master: &MasterKey, store: &Store) -> Result<Self, SecretError> {
        let bytes = master.secret(store, Self::NAME, || random::<32>().to_vec()).await?;
        Ok(Self(bytes.try_into().map_err(|_| SecretError::Damaged { name: Self::NAME })?))
    }

    /// The token that a sandbox's guest agent takes.
    pub(crate) fn token(&self, sandbox: Id<Sandbox>) -> SecretString {
        self.derive(b"guest", sandbox.uuid())
    }

    /// The token that lets a request through to a sandbox's ports.
    pub(crate) fn traffic_token(&self, sandbox: Id<Sandbox>) -> SecretString {
        self.derive(b"traffic", sandbox.uuid())
    }

    /// The token that lets a request to a volume's files.
    pub(crate) fn volume_token(&self, volume: Id<Volume>) -> SecretString {
        self.derive(b"volume", volume.uuid())
    }

    fn derive(&self, purpose: &[u8], of: Uuid) -> SecretString {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        mac.update(purpose);
        mac.update(of.as_bytes());
        hex::encode(mac.finalize().into_bytes()).into()
    }
}

/// Seals credentials that people entrust to a build, by a key that the master key seals.
#[derive(Clone)]
pub(crate) struct DepositKey(MasterKey);

impl DepositKey {
    const NAME: &str = "build-deposit-key";

    pub(crate) async fn load(master: &MasterKey, store: &Store) -> Result<Self, SecretError> {
        let bytes = master.secret(store, Self::NAME, || random::<32>().to_vec()).await?;
        Ok(Self(MasterKey(bytes.try_into().map_err(|_| SecretError::Damaged { name: Self::NAME })?)))
    }

    /// It opens for this build alone.
    pub(crate) fn seal(&self, build: Id<Build>, secret: &[u8]) -> Vec<u8> {
        self.0.seal(&build.to_string(), secret)
    }

    pub(crate) fn open(&self, build: Id<Build>, sealed: &[u8]) -> Result<Vec<u8>, SecretError> {
        self.0.open_of(Self::NAME, &build.to_string(), sealed)
    }
}

/// Seals the values of teams' secrets, by a key that the master key seals.
#[derive(Clone)]
pub(crate) struct VaultKey(MasterKey);

impl VaultKey {
    const NAME: &str = "team-secrets-key";

    pub(crate) async fn load(master: &MasterKey, store: &Store) -> Result<Self, SecretError> {
        let bytes = master.secret(store, Self::NAME, || random::<32>().to_vec()).await?;
        Ok(Self(MasterKey(bytes.try_into().map_err(|_| SecretError::Damaged { name: Self::NAME })?)))
    }

    /// It opens as this version of this secret alone.
    pub(crate) fn seal(&self, id: Id<Secret>, version: u32, value: &SecretString) -> Vec<u8> {
        self.0.seal(&Self::place(id, version), value.expose_secret().as_bytes())
    }

    pub(crate) fn open(
        &self,
        id: Id<Secret>,
        version: u32,
        sealed: &[u8],
    ) -> Result<SecretString, SecretError> {
        let value = self.0.open_of(Self::NAME, &Self::place(id, version), sealed)?;
        String::from_utf8(value).map(Into::into).map_err(|_| SecretError::Damaged { name: Self::NAME })
    }

    fn place(id: Id<Secret>, version: u32) -> String {
        format!("{id}/{version}")
    }
}

/// Seals what a public authority's certificates need, by a key that the master key seals.
#[derive(Clone)]
pub(crate) struct CertificateKey(MasterKey);

impl CertificateKey {
    const NAME: &str = "certificate-key";

    pub(crate) async fn load(master: &MasterKey, store: &Store) -> Result<Self, SecretError> {
        let bytes = master.secret(store, Self::NAME, || random::<32>().to_vec()).await?;
        Ok(Self(MasterKey(bytes.try_into().map_err(|_| SecretError::Damaged { name: Self::NAME })?)))
    }

    /// What is kept under a name. It opens under that alone.
    pub(crate) async fn find(&self, store: &Store, name: &str) -> Result<Option<Vec<u8>>, SecretError> {
        let Some(sealed) = store.secret_find(name).await? else { return Ok(None) };
        self.0.open_of(Self::NAME, name, &sealed).map(Some)
    }

    /// Keeps something in place of what is there. Of several who do so at once, the last one's stays.
    pub(crate) async fn put(&self, store: &Store, name: &str, secret: &[u8]) -> Result<(), SecretError> {
        let sealed = self.0.seal(name, secret);
        let mut before = store.secret_keep(name, &sealed).await?;
        while before != sealed && !store.secret_replace(name, &before, &sealed).await? {
            before = store.secret_keep(name, &sealed).await?;
        }
        Ok(())
    }
}

/// Random bytes from the kernel.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the kernel gives random bytes");
    bytes
}

/// A new random token: a prefix that tells people (and secret scanners) what it is, and `BYTES` random bytes in hexadecimal.
pub(crate) fn random_token<const BYTES: usize>(prefix: &str) -> SecretString {
    format!("{prefix}{}", hex::encode(random::<BYTES>())).into()
}

/// How a token is kept. Fast on purpose: tokens are random, so there is nothing to guess.
pub(crate) fn token_hash(token: &SecretString) -> [u8; 32] {
    Sha256::digest(token.expose_secret().as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_sealed_secret_opens_under_its_own_name_and_key_only() {
        let key = MasterKey(random());
        let sealed = key.seal("a", b"secret");
        assert_eq!(key.open("a", &sealed).unwrap(), b"secret");
        assert!(matches!(key.open("b", &sealed), Err(SecretError::WrongMasterKey { name: "b" })));
        assert!(matches!(MasterKey(random()).open("a", &sealed), Err(SecretError::WrongMasterKey { .. })));
        assert_ne!(sealed, key.seal("a", b"secret"), "a nonce is used once");
        for cut in [0, 1, 5, sealed.len() - 1] {
            assert!(key.open("a", &sealed[..cut]).is_err(), "{cut}");
        }
    }

    #[test]
    fn a_builds_deposit_is_that_builds_alone() {
        let key = DepositKey(MasterKey(random()));
        let (one, other) = (Id::new(), Id::new());
        let sealed = key.seal(one, b"secret");
        assert_eq!(key.open(one, &sealed).unwrap(), b"secret");
        assert!(matches!(key.open(other, &sealed), Err(SecretError::WrongMasterKey { .. })));
    }

    #[test]
    fn a_teams_secret_opens_as_the_version_that_it_was_sealed_as() {
        let key = VaultKey(MasterKey(random()));
        let (one, other) = (Id::new(), Id::new());
        let sealed = key.seal(one, 1, &"hunter2".into());
        assert_eq!(key.open(one, 1, &sealed).unwrap().expose_secret(), "hunter2");
        for (id, version) in [(one, 2), (other, 1)] {
            let moved = key.open(id, version, &sealed);
            assert!(matches!(moved, Err(SecretError::WrongMasterKey { .. })), "{id} {version}");
        }
    }

    #[test]
    fn the_master_keys_file_is_made_once_and_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control/master.key");
        let keys: Vec<_> = std::thread::scope(|scope| {
            let make = || MasterKey::load_or_create(&path).unwrap().0;
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(make)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(keys.iter().all(|key| *key == keys[0]));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn a_damaged_master_key_is_refused_and_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("master.key");
        fs::write(&path, "short").unwrap();
        assert!(matches!(MasterKey::load_or_create(&path), Err(SecretError::MasterKeyForm)));
        assert_eq!(fs::read_to_string(&path).unwrap(), "short");
    }

    #[test]
    fn guest_tokens_differ_and_are_stable() {
        let key = GuestKey(random());
        let (a, b) = (Id::new(), Id::new());
        assert_eq!(key.token(a).expose_secret(), key.token(a).expose_secret());
        assert_ne!(key.token(a).expose_secret(), key.token(b).expose_secret());
        assert_ne!(key.token(a).expose_secret(), key.traffic_token(a).expose_secret());
        assert_ne!(key.token(a).expose_secret(), GuestKey(random()).token(a).expose_secret());
    }
}
