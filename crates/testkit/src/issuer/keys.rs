//! Keys, and tokens signed with them.

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

/// How tokens are signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// RSA with SHA-256.
    Rs256,
    /// P-256 with SHA-256.
    Es256,
}

/// A key to sign with.
pub(super) struct SigningKey {
    id: String,
    pair: Pair,
}

enum Pair {
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair),
}

fn encoded(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

impl SigningKey {
    pub(super) fn new(algorithm: Algorithm, id: String) -> Self {
        let pair = match algorithm {
            Algorithm::Rs256 => Pair::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).expect("an RSA key")),
            Algorithm::Es256 => {
                let made = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING);
                Pair::Ec(made.expect("a P-256 key"))
            }
        };
        Self { id, pair }
    }

    pub(super) fn algorithm(&self) -> Algorithm {
        match self.pair {
            Pair::Rsa(_) => Algorithm::Rs256,
            Pair::Ec(_) => Algorithm::Es256,
        }
    }

    /// The public half, as it is published.
    pub(super) fn jwk(&self) -> Value {
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        match &self.pair {
            Pair::Rsa(pair) => {
                let public = pair.public_key();
                json!({
                    "kty": "RSA", "use": "sig", "alg": "RS256", "kid": self.id,
                    "n": encode(public.modulus().big_endian_without_leading_zero()),
                    "e": encode(public.exponent().big_endian_without_leading_zero()),
                })
            }
            Pair::Ec(pair) => {
                // 4, then both coordinates.
                let point = pair.public_key().as_ref();
                let (x, y) = point[1..].split_at(32);
                json!({
                    "kty": "EC", "use": "sig", "alg": "ES256", "kid": self.id, "crv": "P-256",
                    "x": encode(x), "y": encode(y),
                })
            }
        }
    }

    /// A token that says this.
    pub(super) fn sign(&self, claims: &Value) -> String {
        let algorithm = match self.algorithm() {
            Algorithm::Rs256 => "RS256",
            Algorithm::Es256 => "ES256",
        };
        let header = json!({"typ": "JWT", "alg": algorithm, "kid": self.id});
        let message = format!("{}.{}", encoded(&header), encoded(claims));
        let random = SystemRandom::new();
        let signature = match &self.pair {
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message.as_bytes(), &mut signature)
                    .expect("a signature");
                signature
            }
            Pair::Ec(pair) => pair.sign(&random, message.as_bytes()).expect("a signature").as_ref().to_vec(),
        };
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// A token that says this, without a signature.
    pub(super) fn unsigned(&self, claims: &Value) -> String {
        format!("{}.{}.", encoded(&json!({"typ": "JWT", "alg": "none", "kid": self.id})), encoded(claims))
    }

    /// A token that says this, signed by whoever has read the published key.
    pub(super) fn signed_with_the_published_key(&self, claims: &Value) -> String {
        let header = json!({"typ": "JWT", "alg": "HS256", "kid": self.id});
        let message = format!("{}.{}", encoded(&header), encoded(claims));
        let jwk = self.jwk();
        let published = jwk["n"].as_str().or(jwk["x"].as_str()).expect("a public half");
        let key = hmac::Key::new(hmac::HMAC_SHA256, &URL_SAFE_NO_PAD.decode(published).expect("our own"));
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(hmac::sign(&key, message.as_bytes())))
    }
}
