//! People for tests, made the way people come: they sign up, are added, sign in.

use serde_json::json;

use crate::client::{Answer, Client};
use crate::platform::Platform;

/// What everybody's password is, unless a test says otherwise.
pub(crate) const PASSWORD: &str = "correct horse battery";

/// Somebody who signed up.
#[derive(Clone)]
pub(crate) struct Someone {
    pub(crate) id: String,
    /// The team that they own.
    pub(crate) team: String,
    pub(crate) email: String,
    /// With their token.
    pub(crate) api: Client,
}

impl Platform {
    /// Signs up `NAME@example.org`.
    pub(crate) async fn sign_up(&self, name: &str) -> Someone {
        let email = format!("{name}@example.org");
        let body = json!({"email": email, "password": PASSWORD, "name": name});
        let answer = self.api.anonymous().post("/v1/auth/signup", body).await.expect(201);
        let text = |field: &str| answer[field].as_str().unwrap().to_owned();
        let api = self.api.with_bearer(&text("token"));
        Someone { id: text("user_id"), team: text("team_id"), email, api }
    }

    /// The first person, who administers the platform, and owns the team of `Platform::api`.
    pub(crate) async fn first_person(&self) -> Someone {
        use secrecy::ExposeSecret as _;
        let email = "admin@example.org".to_owned();
        let answer = self.log_in(&email, self.password.expose_secret()).await.expect(200);
        let text = |field: &str| answer[field].as_str().unwrap().to_owned();
        let api = self.api.with_bearer(&text("token"));
        Someone { id: text("user_id"), team: text("team_id"), email, api }
    }

    pub(crate) async fn log_in(&self, email: &str, password: &str) -> Answer {
        self.api.anonymous().post("/v1/auth/login", json!({"email": email, "password": password})).await
    }
}

impl Someone {
    /// A token of another sign-in of theirs.
    pub(crate) async fn sign_in_again(&self) -> Client {
        let body = json!({"email": self.email, "password": PASSWORD});
        let answer = self.api.anonymous().post("/v1/auth/login", body).await.expect(200);
        self.api.with_bearer(answer["token"].as_str().unwrap())
    }

    /// Their token for another team of theirs.
    pub(crate) async fn in_team(&self, team: &str) -> Client {
        let answer = self.api.post("/v1/auth/switch-team", json!({"team_id": team})).await.expect(200);
        assert_eq!(answer["team_id"], team);
        self.api.with_bearer(answer["token"].as_str().unwrap())
    }

    /// Makes them a member of this one's team.
    pub(crate) async fn adds(&self, other: &Self) {
        let path = format!("/v1/teams/{}/members", self.team);
        self.api.post(&path, json!({"email": other.email})).await.expect(201);
    }

    /// Makes a member of this one's team an admin or a member.
    pub(crate) async fn makes(&self, other: &Self, role: &str) {
        let path = format!("/v1/teams/{}/members/{}", self.team, other.id);
        let answer = self.api.patch(&path, json!({"role": role})).await.expect(200);
        assert_eq!(answer["role"], role);
    }

    /// A key of the team that they act for: its id, and the key.
    pub(crate) async fn key(&self) -> (String, String) {
        let answer = self.api.post("/v1/api-keys", json!({"name": "k"})).await.expect(201);
        let text = |field: &str| answer[field].as_str().unwrap().to_owned();
        (text("id"), text("key"))
    }
}
