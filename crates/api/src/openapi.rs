//! The OpenAPI document: generated from the handlers, served, and drawn by Swagger UI from files inside the binary.

use std::collections::BTreeSet;

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderValue, header};
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use axum::routing::get;
use bytes::Bytes;
use utoipa::openapi::request_body::RequestBody;
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme,
};
use utoipa::openapi::{Components, OpenApi, Ref, RefOr, Required, Schema};
use utoipa::{Modify, OpenApi as _};
use utoipa_swagger_ui::{Config, SwaggerUi};

const DESCRIPTION: &str = "\
Sandbar runs untrusted code in microVMs on machines that you own.

Send a team's key in the header `X-API-Key`, or the token of a sign-in as `Authorization: Bearer`. Times are RFC 3339 with microseconds, in UTC. Every answer carries \
`X-Request-Id`; one sent with the request (a UUID) is kept. Unknown request fields are ignored. Lists that can grow take \
`limit` and `cursor` and name the next page in `X-Next-Cursor`.

Each caller may send so many requests a second, and each team may have so much at a time: what is more is refused with 429, the former with \
`Retry-After`. A server that has all the connections that it takes answers 503 at once. A page opens a WebSocket with its token among the protocols, \
`sandbar.v1` and `bearer.TOKEN`, since it can set no headers, and is answered the former.

`/v1/capsules/...` is an alias of `/v1/sandboxes/...`: a capsule is the dashboard's word for a sandbox.

A path that exists is refused with 405 and the code `invalid_request` for other methods than its own.";

/// What no handler says.
#[derive(utoipa::OpenApi)]
#[openapi(
    info(title = "Sandbar", description = DESCRIPTION, license(name = "Apache-2.0", identifier = "Apache-2.0")),
    components(schemas(
        crate::error::ErrorBody,
        crate::v1::sandboxes::ExecStreamClientMessage,
        crate::v1::sandboxes::ExecStreamServerMessage,
        crate::v1::sandboxes::PtyClientMessage,
        crate::v1::sandboxes::PtyServerMessage,
    )),
    tags(
        (name = "sandboxes", description = "MicroVMs and the commands that run in them"),
        (name = "files", description = "Files in a sandbox"),
        (name = "snapshots", description = "What sandboxes start from"),
        (name = "builds", description = "Making templates of recipes"),
        (name = "hosts", description = "The machines that run sandboxes, and what their agents ask"),
        (name = "auth", description = "Signing up, in and out"),
        (name = "me", description = "The person who asks"),
        (name = "api-keys", description = "Keys of the team that is acted for"),
        (name = "secrets", description = "Values that sandboxes are given as environment, and nobody reads again"),
        (name = "volumes", description = "Disks that outlive sandboxes and are mounted by name"),
        (name = "users", description = "Finding people"),
        (name = "teams", description = "Teams and their members"),
        (name = "usage", description = "What the team used"),
        (name = "audit", description = "What was done, and by whom"),
        (name = "platform", description = "How it is reached"),
        (name = "admin", description = "For the platform's administrators"),
        (name = "health", description = "For load balancers and supervisors"),
    ),
    modifiers(&Credentials),
)]
struct Base;

struct Credentials;

impl Modify for Credentials {
    fn modify(&self, document: &mut OpenApi) {
        let header = |name, description| {
            SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::with_description(name, description)))
        };
        let components = document.components.get_or_insert_with(Components::new);
        components.add_security_scheme("api_key", header("X-API-Key", "A team's API key"));
        let bearer = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .bearer_format("JWT")
            .description(Some("The token of a sign-in"))
            .build();
        components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
        components.add_security_scheme("host_token", header("X-Host-Token", "A host's own token"));
    }
}

/// The part of the document that no handler gives.
pub(crate) fn base() -> OpenApi {
    Base::openapi()
}

/// Says of every operation that takes a key that it takes the token of a sign-in, too: `auth::Caller` reads both.
pub(crate) fn keys_or_people(document: &mut OpenApi) {
    let key = SecurityRequirement::new::<_, [&str; 0], &str>("api_key", []);
    let bearer = SecurityRequirement::new::<_, [&str; 0], &str>("bearer", []);
    for item in document.paths.paths.values_mut() {
        let operations = [&mut item.get, &mut item.put, &mut item.post, &mut item.delete, &mut item.patch];
        for security in operations.into_iter().flatten().filter_map(|operation| operation.security.as_mut()) {
            if security.contains(&key) && !security.contains(&bearer) {
                security.push(bearer.clone());
            }
        }
    }
}

/// Says of every body of which no field is needed that it may be left out: `extract::JsonBody` reads none at all as an empty object.
pub(crate) fn bodies_may_be_left_out(document: &mut OpenApi) {
    let components = document.components.as_ref();
    let needs_nothing: BTreeSet<String> = components
        .into_iter()
        .flat_map(|components| &components.schemas)
        .filter(
            |(_, schema)| matches!(schema, RefOr::T(Schema::Object(object)) if object.required.is_empty()),
        )
        .map(|(name, _)| Ref::from_schema_name(name).ref_location)
        .collect();
    let may_be_left_out = |body: &RequestBody| {
        let Some(RefOr::T(content)) = body.content.get("application/json") else { return false };
        matches!(&content.schema, Some(RefOr::Ref(named)) if needs_nothing.contains(&named.ref_location))
    };
    for item in document.paths.paths.values_mut() {
        let operations = [&mut item.put, &mut item.post, &mut item.delete, &mut item.patch];
        for body in operations.into_iter().flatten().filter_map(|operation| operation.request_body.as_mut()) {
            if let RefOr::T(body) = body
                && may_be_left_out(body)
            {
                body.required = Some(Required::False);
            }
        }
    }
}

/// `/openapi.json`, `/openapi.yaml` and `/docs`.
pub(crate) fn routes<S: Clone + Send + Sync + 'static>(document: &OpenApi) -> Router<S> {
    // Strings, numbers and maps with text keys: neither can fail.
    let json = Bytes::from(serde_json::to_vec_pretty(document).unwrap_or_default());
    let yaml = Bytes::from(serde_yaml_ng::to_string(document).unwrap_or_default());
    let ui: Router<S> = SwaggerUi::new("/docs").config(Config::new(["/openapi.json"])).into();
    Router::new()
        .route("/openapi.json", serve(json, "application/json"))
        .route("/openapi.yaml", serve(yaml, "application/yaml"))
        .merge(ui.layer(from_fn(page_policy)))
}

fn serve<S: Clone + Send + Sync + 'static>(
    document: Bytes,
    media_type: &'static str,
) -> axum::routing::MethodRouter<S> {
    get(move || std::future::ready(([(header::CONTENT_TYPE, media_type)], document.clone())))
}

/// Swagger UI is a page: it needs its own scripts, and sets styles from within them. Nothing comes from elsewhere.
async fn page_policy(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    response.headers_mut().insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(
            "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'",
        ),
    );
    response
}
