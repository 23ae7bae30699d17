//! The dashboard's files: an application of static pages that speaks to `/v1` like any other client. What they hold is handed in by the
//! binary that embeds them; without them these routes are not there.

use axum::Router;
use axum::http::{HeaderMap, HeaderValue, Response, header};
use axum::response::IntoResponse;
use axum::routing::get;
use bytes::Bytes;

/// Where the application draws its pages. It is one document, which looks at the address by itself.
const PAGES: [&str; 5] = ["/", "/login", "/signup", "/dashboard", "/dashboard/{*page}"];
/// That document.
const DOCUMENT: &str = "index.html";
/// Files below have their content's hash in their name.
const UNCHANGING: &str = "_app/immutable/";
/// Everything from here, and nothing inline.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; img-src 'self' data:; \
    connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/// A file.
#[derive(Debug, Clone, Copy)]
pub struct Asset {
    /// Relative to the root, without a slash before it.
    pub path: &'static str,
    /// Its bytes.
    pub plain: &'static [u8],
    /// The same by gzip, where that is worth it.
    pub gzip: Option<&'static [u8]>,
}

/// A route for every file and every page.
pub(crate) fn routes<S: Clone + Send + Sync + 'static>(assets: &'static [Asset]) -> Router<S> {
    let mut router = Router::new();
    for asset in assets {
        let serve = get(move |headers: HeaderMap| std::future::ready(answer(asset, &headers)));
        if asset.path == DOCUMENT {
            for page in PAGES {
                router = router.route(page, serve.clone());
            }
        } else {
            router = router.route(&format!("/{}", asset.path), serve);
        }
    }
    router
}

fn answer(asset: &Asset, asked: &HeaderMap) -> Response<axum::body::Body> {
    let cache = match asset.path.starts_with(UNCHANGING) {
        true => "public, max-age=31536000, immutable",
        // The next build's may be another.
        false => "no-cache",
    };
    let mut headers = HeaderMap::new();
    let mut say = |name, value| headers.insert(name, HeaderValue::from_static(value));
    say(header::CONTENT_TYPE, media_type(asset.path));
    say(header::CACHE_CONTROL, cache);
    say(header::CONTENT_SECURITY_POLICY, POLICY);
    let bytes = match asset.gzip {
        Some(gzip) => {
            say(header::VARY, "Accept-Encoding");
            if takes_gzip(asked) {
                say(header::CONTENT_ENCODING, "gzip");
                gzip
            } else {
                asset.plain
            }
        }
        None => asset.plain,
    };
    (headers, Bytes::from_static(bytes)).into_response()
}

fn takes_gzip(asked: &HeaderMap) -> bool {
    let given = asked.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    given.flat_map(|value| value.split(',')).any(|coding| {
        let (name, weight) = coding.split_once(';').unwrap_or((coding, ""));
        let weight = weight.trim().strip_prefix("q=").and_then(|q| q.parse().ok()).unwrap_or(1.0);
        name.trim().eq_ignore_ascii_case("gzip") && weight > 0.0
    })
}

fn media_type(path: &str) -> &'static str {
    match path.rsplit_once('.').map_or("", |(_, extension)| extension) {
        "html" => "text/html; charset=utf-8",
        "js" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "json" => "application/json",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "woff2" => "font/woff2",
        "txt" => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use axum::http::{Request, StatusCode};
    use tower::ServiceExt as _;

    use super::*;

    const ASSETS: &[Asset] = &[
        Asset { path: "index.html", plain: b"<p>", gzip: None },
        Asset { path: "_app/immutable/a.1.js", plain: b"plain", gzip: Some(b"small") },
    ];

    async fn ask(path: &str, coding: &str) -> (StatusCode, HeaderMap, Bytes) {
        let request = Request::get(path).header(header::ACCEPT_ENCODING, coding).body(Body::empty()).unwrap();
        let response = routes::<()>(ASSETS).oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        (parts.status, parts.headers, to_bytes(body, 100).await.unwrap())
    }

    #[tokio::test]
    async fn every_page_is_the_document_and_runs_nothing_inline() {
        for path in ["/", "/login", "/dashboard/capsules/list"] {
            let (status, headers, body) = ask(path, "gzip").await;
            assert_eq!((status, body.as_ref()), (StatusCode::OK, &b"<p>"[..]), "{path}");
            assert_eq!(headers[header::CACHE_CONTROL], "no-cache");
            let policy = headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
            assert!(!policy.contains("unsafe") && policy.contains("frame-ancestors 'none'"), "{policy}");
        }
        assert_eq!(ask("/elsewhere", "gzip").await.0, StatusCode::NOT_FOUND);
    }

    #[tokio::test]
    async fn files_are_kept_by_browsers_and_compressed_for_those_that_ask() {
        for (coding, body, told) in
            [("br, gzip", "small", Some("gzip")), ("gzip;q=0", "plain", None), ("identity", "plain", None)]
        {
            let (_, headers, bytes) = ask("/_app/immutable/a.1.js", coding).await;
            assert_eq!(bytes, body, "{coding}");
            assert_eq!(headers.get(header::CONTENT_ENCODING).map(|value| value.to_str().unwrap()), told);
            assert_eq!(headers[header::CONTENT_TYPE], "text/javascript; charset=utf-8");
            assert!(headers[header::CACHE_CONTROL].to_str().unwrap().contains("immutable"));
        }
    }
}
