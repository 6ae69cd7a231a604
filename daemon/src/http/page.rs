//! What stands in the binary: the page for people, and the description of the API.

use axum::http::{HeaderValue, header};
use axum::response::{Html, IntoResponse, Response};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use sha2::{Digest, Sha256};
use std::sync::LazyLock;

/// One file: nothing else is loaded.
const PAGE: &str = include_str!("index.html");

/// OpenAPI 3.1, written by hand.
pub(super) const DESCRIPTION: &str = include_str!("openapi.json");

/// The one script and the one style of the page run, by their digests; no other, wherever it may come from. No markup is
/// made of text, nothing is sent elsewhere, and no other site may frame the page.
static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let (style, script) = (digest_of("style"), digest_of("script"));
    let policy = format!(
        "default-src 'none'; style-src {style}; script-src {script}; img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    );
    HeaderValue::from_str(&policy).unwrap_or(HeaderValue::from_static("default-src 'none'"))
});

/// The digest of what stands in the element `tag` of the page, as a policy names it.
fn digest_of(tag: &str) -> String {
    let (open, close) = (format!("<{tag}>"), format!("</{tag}>"));
    let inside = PAGE
        .split_once(&open)
        .and_then(|(_, rest)| rest.split_once(&close));
    let digest = Sha256::digest(inside.map_or("", |(inside, _)| inside));
    format!("'sha256-{}'", BASE64_STANDARD.encode(digest))
}

pub(super) async fn page() -> impl IntoResponse {
    let fresh = (header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    let policy = (header::CONTENT_SECURITY_POLICY, POLICY.clone());
    ([fresh, policy], Html(PAGE))
}

pub(super) async fn description() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], DESCRIPTION)
}

/// No answer is taken for what it does not say it is, shown in a frame, or told to others by where it links to.
pub(super) async fn guarded(mut answer: Response) -> Response {
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        answer
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    answer
}
