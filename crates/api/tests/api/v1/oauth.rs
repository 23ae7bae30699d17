//! Signing in at another provider, against one that speaks the protocol and can break it.

use reqwest::Method;
use reqwest::header::{COOKIE, LOCATION, SET_COOKIE};
use sandbar_control::Config;
use sandbar_control::oauth::OAuthConfig;
use sandbar_testkit::issuer::{Account, Algorithm, CLIENT_ID, CLIENT_SECRET, Fault, Issuer};
use serde_json::{Value, json};

use crate::client::{Answer, Client, send};
use crate::people::Someone;
use crate::platform::{Platform, config};

const PAGE: &str = "http://localhost/login#";

struct World {
    platform: Platform,
    issuer: Issuer,
}

/// What came of a way out and back: the words of the fragment, and the cookie for the exchange.
#[derive(Debug)]
struct CameBack {
    fragment: String,
    binding: Option<String>,
}

fn account(subject: u64, email: &str) -> Account {
    Account { subject, email: email.to_owned(), email_verified: true, name: "Olga".to_owned() }
}

/// The cookie of this name that an answer sets.
fn cookie(answer: &Answer, name: &str) -> Option<String> {
    let set = answer.headers.get_all(SET_COOKIE).iter().map(|value| value.to_str().unwrap());
    let found = set.filter_map(|cookie| cookie.split_once('=')).find(|(given, _)| *given == name)?;
    assert!(found.1.contains("; HttpOnly; SameSite=Lax"), "{found:?}");
    let value = found.1.split(';').next().unwrap();
    (!value.is_empty()).then(|| format!("{name}={value}"))
}

fn location(answer: &Answer) -> String {
    assert_eq!(answer.status, 302, "{}", answer.body);
    answer.headers[LOCATION].to_str().unwrap().to_owned()
}

impl World {
    async fn new(algorithm: Algorithm) -> Self {
        let issuer = Issuer::start(algorithm).await;
        let url = issuer.url();
        let text = format!(
            r#"
            public_url = "http://localhost"
            [[provider]]
            name = "company"
            kind = "oidc"
            issuer = "{url}"
            client_id = "{CLIENT_ID}"
            client_secret = "{CLIENT_SECRET}"
            [[provider]]
            name = "github"
            label = "GitHub"
            kind = "github"
            url = "{url}"
            client_id = "{CLIENT_ID}"
            client_secret = "{CLIENT_SECRET}"
            "#
        );
        let oauth = Some(OAuthConfig::parse(&text).unwrap());
        Self { platform: Platform::start_with(Config { oauth, ..config() }).await, issuer }
    }

    fn anyone(&self) -> Client {
        self.platform.api.anonymous().without_redirects()
    }

    /// The way out: where to, and the cookie.
    async fn begin(&self, provider: &str, intent: &str) -> (String, String) {
        let answer = self.anyone().get(&format!("/v1/auth/oauth/{provider}?intent={intent}")).await;
        (location(&answer), cookie(&answer, "sandbar_oauth").unwrap())
    }

    /// At the provider: the path and query that the browser comes back with.
    async fn at_provider(&self, way_out: &str) -> String {
        let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        let back = location(&send(http.get(way_out)).await);
        back.strip_prefix("http://localhost").unwrap().to_owned()
    }

    async fn come_back(&self, path: &str, cookie_: &str) -> CameBack {
        let answer = send(self.anyone().request(Method::GET, path).header(COOKIE, cookie_)).await;
        let fragment = location(&answer).strip_prefix(PAGE).unwrap().to_owned();
        CameBack { fragment, binding: cookie(&answer, "sandbar_oauth_exchange") }
    }

    /// All three steps but the exchange.
    async fn go(&self, provider: &str, intent: &str) -> CameBack {
        let (way_out, cookie) = self.begin(provider, intent).await;
        self.come_back(&self.at_provider(&way_out).await, &cookie).await
    }

    async fn exchange(&self, back: &CameBack) -> Answer {
        let code = back.fragment.strip_prefix("code=").unwrap();
        let request = self.anyone().request(Method::POST, "/v1/auth/oauth/exchange");
        let request = match &back.binding {
            Some(binding) => request.header(COOKIE, binding),
            None => request,
        };
        send(request.json(&json!({"code": code}))).await
    }

    /// Signs in or up, to the token.
    async fn token(&self, provider: &str, intent: &str) -> Value {
        let back = self.go(provider, intent).await;
        assert!(back.fragment.starts_with("code="), "{back:?}");
        self.exchange(&back).await.expect(200)
    }

    async fn link(&self, someone: &Someone, provider: &str) -> CameBack {
        let answer = someone.api.post(&format!("/v1/me/identities/{provider}"), json!({})).await;
        let cookie = cookie(&answer, "sandbar_oauth").unwrap();
        let way_out = answer.expect(200)["location"].as_str().unwrap().to_owned();
        self.come_back(&self.at_provider(&way_out).await, &cookie).await
    }
}

#[tokio::test]
async fn people_sign_up_and_in_at_an_issuer_and_at_github() {
    for algorithm in [Algorithm::Rs256, Algorithm::Es256] {
        let world = World::new(algorithm).await;
        let listed = world.anyone().get("/v1/auth/oauth").await.expect(200);
        assert_eq!(
            listed,
            json!([{"name": "company", "label": "company"}, {"name": "github", "label": "GitHub"}])
        );
        for (provider, email) in [("company", "olga@example.org"), ("github", "octo@example.org")] {
            world.issuer.sign_in(Some(account(42, email)));
            let refused = world.go(provider, "login").await;
            assert_eq!(refused.fragment, format!("error=no_account&provider={provider}"));
            let up = world.token(provider, "signup").await;
            assert_eq!((&up["email"], &up["name"]), (&json!(email), &json!("Olga")));
            assert!(up["team_id"].is_string());
            let api = world.platform.api.with_bearer(up["token"].as_str().unwrap());
            let me = api.get("/v1/me").await.expect(200);
            assert_eq!((&me["has_password"], &me["is_admin"]), (&json!(false), &json!(false)));
            let again = world.go(provider, "signup").await;
            assert_eq!(again.fragment, format!("error=account_exists&provider={provider}"));
            // The address changed hands at the provider: who somebody is, did not.
            world.issuer.sign_in(Some(account(42, "married@example.org")));
            world.issuer.replace_key(algorithm);
            assert_eq!(world.token(provider, "login").await["user_id"], up["user_id"]);
        }
    }
}

#[tokio::test]
async fn an_address_that_has_an_account_is_not_taken_over() {
    let world = World::new(Algorithm::Es256).await;
    let ann = world.platform.sign_up("ann").await;
    for provider in ["company", "github"] {
        world.issuer.sign_in(Some(account(7, "ANN@example.org")));
        assert_eq!(
            world.go(provider, "login").await.fragment,
            format!("error=no_account&provider={provider}")
        );
        assert_eq!(
            world.go(provider, "signup").await.fragment,
            format!("error=email_taken&provider={provider}")
        );
        world.issuer.sign_in(Some(Account { email_verified: false, ..account(8, "new@example.org") }));
        assert_eq!(
            world.go(provider, "signup").await.fragment,
            format!("error=email_not_verified&provider={provider}")
        );
    }
    assert_eq!(ann.api.get("/v1/me/identities").await.expect(200), json!([]));
    let people: i64 = sqlx::query_scalar("SELECT count(*) FROM users")
        .fetch_one(world.platform.database.pool())
        .await
        .unwrap();
    assert_eq!(people, 2);
}

#[tokio::test]
async fn identities_are_linked_by_who_is_signed_in_and_unlinked_while_another_way_in_is_left() {
    let world = World::new(Algorithm::Es256).await;
    let (ann, bob) = (world.platform.sign_up("ann").await, world.platform.sign_up("bob").await);
    world.issuer.sign_in(Some(account(7, "whoever@example.org")));
    assert_eq!(world.link(&ann, "company").await.fragment, "linked=company");
    assert_eq!(world.token("company", "login").await["user_id"], ann.id);
    assert_eq!(world.link(&bob, "company").await.fragment, "error=already_linked&provider=company");
    world.issuer.sign_in(Some(account(8, "another@example.org")));
    assert_eq!(world.link(&ann, "company").await.fragment, "error=already_linked&provider=company");

    ann.api.delete("/v1/me/identities/github").await.refused(404, "not_found");
    ann.api.delete("/v1/me/identities/company").await.expect(204);
    world.issuer.sign_in(Some(account(7, "whoever@example.org")));
    assert_eq!(world.go("company", "login").await.fragment, "error=no_account&provider=company");

    // Who has no password keeps one.
    let olga = world.token("company", "signup").await;
    let api = world.platform.api.with_bearer(olga["token"].as_str().unwrap());
    api.delete("/v1/me/identities/company").await.refused(409, "conflict");
    api.patch("/v1/me", json!({"password": "a good password"})).await.expect(200);
    api.delete("/v1/me/identities/company").await.expect(204);

    // Who signs out on the way links nothing.
    let answer = ann.api.post("/v1/me/identities/company", json!({})).await;
    let cookie = cookie(&answer, "sandbar_oauth").unwrap();
    let way_out = answer.expect(200)["location"].as_str().unwrap().to_owned();
    let path = world.at_provider(&way_out).await;
    ann.api.post("/v1/auth/logout", json!({})).await.expect(204);
    assert_eq!(world.come_back(&path, &cookie).await.fragment, "error=state&provider=company");
}

#[tokio::test]
async fn a_way_back_counts_only_in_the_browser_that_went_out_and_once() {
    let world = World::new(Algorithm::Es256).await;
    world.issuer.sign_in(Some(account(7, "olga@example.org")));
    let state_error = |provider: &str| format!("error=state&provider={provider}");
    let (way_out, own) = world.begin("company", "signup").await;
    let (_, others) = world.begin("company", "signup").await;
    let path = world.at_provider(&way_out).await;
    assert_eq!(world.come_back(&path, "").await.fragment, state_error("company"));
    assert_eq!(world.come_back(&path, &others).await.fragment, state_error("company"));
    assert_eq!(world.come_back(&path, &format!("{own}x")).await.fragment, state_error("company"));
    let github = path.replace("/company/", "/github/");
    assert_eq!(world.come_back(&github, &own).await.fragment, state_error("github"));
    let without_state = path.split("&state=").next().unwrap();
    assert_eq!(world.come_back(without_state, &own).await.fragment, state_error("company"));

    let back = world.come_back(&path, &own).await;
    // The provider takes a code once.
    assert_eq!(world.come_back(&path, &own).await.fragment, "error=provider_failed&provider=company");
    // The page's code needs the cookie that came with it, and works once.
    let stolen = CameBack { binding: None, fragment: back.fragment.clone() };
    world.exchange(&stolen).await.refused(401, "unauthorized");
    let elsewhere = CameBack { binding: Some("sandbar_oauth_exchange=x".to_owned()), ..stolen };
    world.exchange(&elsewhere).await.refused(401, "unauthorized");
    world.exchange(&back).await.expect(200);
    world.exchange(&back).await.refused(401, "unauthorized");

    let back = world.go("company", "login").await;
    sqlx::query("UPDATE sign_in_codes SET expires_at = now()")
        .execute(world.platform.database.pool())
        .await
        .unwrap();
    world.exchange(&back).await.refused(401, "unauthorized");

    world.issuer.sign_in(None);
    assert_eq!(world.go("company", "login").await.fragment, "error=refused&provider=company");
    world.anyone().get("/v1/auth/oauth/company?intent=other").await.refused(400, "invalid_request");
    world.anyone().get("/v1/auth/oauth/nobody").await.refused(404, "not_found");
}

#[tokio::test]
async fn over_tls_only_cookies_count_that_no_page_below_our_name_can_have_set() {
    let world = World::new(Algorithm::Es256).await;
    world.issuer.sign_in(Some(account(7, "olga@example.org")));
    let ask = |method, path: &str| world.anyone().request(method, path).header("X-Forwarded-Proto", "https");
    let begun = send(ask(Method::GET, "/v1/auth/oauth/company?intent=signup")).await;
    let set = begun.headers[SET_COOKIE].to_str().unwrap();
    assert!(set.contains("; Path=/; ") && set.ends_with("; Secure"), "{set}");
    let state = cookie(&begun, "__Host-sandbar_oauth").unwrap();
    let path = world.at_provider(&location(&begun)).await;
    let planted = state.strip_prefix("__Host-").unwrap();
    let refused = send(ask(Method::GET, &path).header(COOKIE, planted)).await;
    assert_eq!(location(&refused).strip_prefix(PAGE), Some("error=state&provider=company"));
    let back = send(ask(Method::GET, &path).header(COOKIE, state)).await;
    let code = location(&back).strip_prefix(PAGE).unwrap().strip_prefix("code=").unwrap().to_owned();
    let binding = cookie(&back, "__Host-sandbar_oauth_exchange").unwrap();
    let exchange = |cookie: &str| {
        let request = ask(Method::POST, "/v1/auth/oauth/exchange").header(COOKIE, cookie);
        send(request.json(&json!({"code": code})))
    };
    exchange(binding.strip_prefix("__Host-").unwrap()).await.refused(401, "unauthorized");
    exchange(&binding).await.expect(200);
}

#[tokio::test]
async fn an_issuer_that_breaks_the_protocol_lets_nobody_in() {
    for algorithm in [Algorithm::Rs256, Algorithm::Es256] {
        let world = World::new(algorithm).await;
        world.issuer.sign_in(Some(account(7, "olga@example.org")));
        for fault in [
            Fault::Nonce,
            Fault::Audience,
            Fault::TokenIssuer,
            Fault::Expired,
            Fault::ForeignKey,
            Fault::Unsigned,
            Fault::SharedSecret,
            Fault::Tampered,
            Fault::TokenEndpoint,
        ] {
            world.issuer.break_protocol(Some(fault));
            let back = world.go("company", "signup").await;
            assert_eq!(back.fragment, "error=provider_failed&provider=company", "{fault:?}");
        }
        world.issuer.break_protocol(Some(Fault::DiscoveryIssuer));
        world.anyone().get("/v1/auth/oauth/company").await.refused(502, "agent_error");
        world.issuer.break_protocol(None);
        world.token("company", "signup").await;
    }
}
