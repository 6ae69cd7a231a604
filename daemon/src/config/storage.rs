//! Where a watched place lies and how its storage is reached: the mistakes that can be seen without a request.

use std::collections::{BTreeMap, HashMap};

use squire_engine::store::location;

/// What Lance and its S3 client know, without the `aws_` that most of it may carry.
const KNOWN: &[&str] = &[
    "access_key_id",
    "allow_http",
    "allow_invalid_certificates",
    "bucket",
    "bucket_name",
    "checksum_algorithm",
    "client_max_retries",
    "client_retry_timeout",
    "conditional_put",
    "connect_timeout",
    "container_authorization_token_file",
    "container_credentials_full_uri",
    "container_credentials_relative_uri",
    "copy_if_not_exists",
    "default_content_type",
    "default_region",
    "disable_bulk_delete",
    "disable_system_certificates",
    "disable_tagging",
    "download_retry_count",
    "endpoint",
    "endpoint_url",
    "endpoint_url_s3",
    "endpoint_url_sts",
    "http1_only",
    "http2_only",
    "imdsv1_fallback",
    "metadata_endpoint",
    "pool_idle_timeout",
    "pool_max_idle_per_host",
    "proxy_ca_certificate",
    "proxy_excludes",
    "proxy_url",
    "randomize_addresses",
    "read_timeout",
    "region",
    "request_payer",
    "role_arn",
    "role_session_name",
    "s3_express",
    "secret_access_key",
    "server_side_encryption",
    "session_token",
    "skip_signature",
    "sse_kms_key_id",
    "timeout",
    "token",
    "unsigned_payload",
    "user_agent",
    "virtual_hosted_style_request",
    "web_identity_token_file",
];

/// A name that is this many letters or fewer from a known one is a misspelt one. Others are passed on: Lance takes names
/// that are not listed here.
const MISSPELT: usize = 2;

/// The place that `uri` names, as it is written.
pub(super) fn written(uri: &str) -> Result<String, String> {
    location::normalise(uri, false).map_err(|e| e.to_string())
}

/// The place that `uri` names, the same for every way to write it.
pub(crate) fn location_of(uri: &str) -> Result<String, String> {
    written(uri).map(|place| location::canonical(&place))
}

/// The option that was probably meant by one that nothing would read.
pub(super) fn meant_by(option: &str) -> Option<&'static str> {
    let lower = option.to_ascii_lowercase();
    let name = lower.strip_prefix("aws_").unwrap_or(&lower);
    let near = KNOWN
        .iter()
        .map(|known| (strsim::damerau_levenshtein(name, known), *known));
    let (distance, known) = near.min()?;
    (1..=MISSPELT).contains(&distance).then_some(known)
}

/// What keeps requests to `place` from being sent with `options`.
pub(super) fn check_options(
    place: &str,
    options: &BTreeMap<String, String>,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<(), String> {
    let options: HashMap<String, String> = options.clone().into_iter().collect();
    location::check_options(&options).map_err(|e| e.to_string())?;
    if !place.starts_with("s3://") {
        return Ok(());
    }
    // What else the environment says is not the file's, and is looked at when the place is opened.
    let allows = ["AWS_ALLOW_HTTP", "ALLOW_HTTP"].into_iter();
    let allows = allows.filter_map(|name| Some((name.to_owned(), environment(name)?)));
    location::check_endpoint(&options, allows).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::{KNOWN, meant_by};

    #[test]
    fn misspelt_options_are_recognised_and_others_left_alone() {
        assert_eq!(meant_by("endpont"), Some("endpoint"));
        assert_eq!(meant_by("AWS_ACESS_KEY_ID"), Some("access_key_id"));
        for other in ["key", "lance_custom_option", "aws_region", "REGION"] {
            assert_eq!(meant_by(other), None, "{other}");
        }
        assert!(KNOWN.iter().all(|known| meant_by(known).is_none()));
    }
}
