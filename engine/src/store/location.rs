//! Which URIs a store may live at.

use super::{INTERNAL, MANIFEST_PATH, StoreOptions};
use crate::error::{Error, ErrorKind, Result, quoted};
use rustix::io::Errno;
use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Schemes whose commit handler uses conditional puts (fact 3); every other one would silently get an unsafe handler.
const SCHEMES: [&str; 3] = ["file", "s3", "memory"];

/// What begins a URL when a colon follows.
const URL_SCHEMES: [&str; 12] = [
    "abfs", "abfss", "az", "file", "gs", "hdfs", "http", "https", "memory", "s3", "s3a", "s3n",
];

/// An absolute URI without a trailing slash or `file://`. `wrapped`: whether something is wrapped around its storage.
///
/// # Errors
/// `InvalidInput` for what is no URL and no path, and for a scheme that is not supported; `Refused`, a safety check, for S3
/// Express buckets, whose version hint a resurrected version turns backwards (fact 16), and for what is among the files of a store.
pub fn normalise(uri: &str, wrapped: bool) -> Result<String> {
    check_presentable(uri)?;
    let place = place_of(uri, wrapped)?;
    check_not_internal(uri, &place)?;
    Ok(place)
}

/// A location as it is spelled from here on, as far as it can be checked without asking the storage.
///
/// # Errors
/// `InvalidInput` for what is no location, or cannot be reached with such options.
pub(super) async fn checked(uri: &str, options: &StoreOptions) -> Result<String> {
    let uri = normalise(uri, options.wrapper.is_some())?;
    check_options(&options.storage_options)?;
    check_real(&uri).await?;
    if !uri.contains("://") {
        check_directory(&uri).await?;
    }
    if uri.starts_with("s3://") {
        let text = |(name, value): (OsString, OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        let environment = std::env::vars_os().filter_map(text);
        check_endpoint(&options.storage_options, environment)?;
    }
    Ok(uri)
}

/// Bytes of the longest location: what a path of Linux has, and more than a key of S3.
const LONGEST: usize = 4_096;

/// Refuses a location that must not stand in a message, a log or a status: one that carries secrets, and one without end.
///
/// # Errors
/// `InvalidInput`; it shows nothing of the secrets.
pub fn check_presentable(uri: &str) -> Result<()> {
    if uri.len() > LONGEST {
        let (bytes, shown) = (uri.len(), quoted(&without_secrets(uri)));
        return Err(Error::invalid(format!(
            "{shown} has {bytes} bytes, and no location has more than {LONGEST}"
        )));
    }
    let shown = without_secrets(uri);
    if shown.contains(LOGIN) {
        return Err(Error::invalid(format!(
            "{shown:?} has a user or a password in it; leave them out, and give them as aws_access_key_id and aws_secret_access_key, among storage_options or in the environment"
        )));
    }
    Ok(())
}

/// What is shown in place of a user and a password.
const LOGIN: &str = "://***@";

/// A URL without what it carries for logging in, before its host and behind its path.
fn without_secrets(uri: &str) -> String {
    let Some((scheme, rest)) = uri.split_once("://") else {
        return uri.to_owned();
    };
    let (rest, signed) = match rest.split_once('?') {
        Some((rest, _)) => (rest, "?***"),
        None => (rest, ""),
    };
    let host = rest.find('/').unwrap_or(rest.len());
    match rest[..host].rfind('@') {
        Some(login) => format!("{scheme}{LOGIN}{}{signed}", &rest[login + 1..]),
        None => format!("{scheme}://{rest}{signed}"),
    }
}

fn place_of(uri: &str, wrapped: bool) -> Result<String> {
    if uri.trim() != uri {
        return Err(Error::invalid(format!(
            "{uri:?} begins or ends with white space; leave that out"
        )));
    }
    if uri.chars().any(char::is_control) {
        return Err(Error::invalid(format!(
            "{} has control characters; a location is text of one line",
            quoted(uri)
        )));
    }
    let trimmed = uri.trim_end_matches('/');
    if trimmed.is_empty() {
        return Err(Error::invalid(
            "the location is empty; give a path or a URL such as s3://bucket/prefix",
        ));
    }
    let Some((scheme, rest)) = trimmed.split_once("://") else {
        refuse_typo(trimmed)?;
        refuse_unexpanded(trimmed)?;
        refuse_special(trimmed)?;
        return absolute(uri, trimmed);
    };
    // The local disk through the object-store interface alone, so that a wrapper meets every request.
    let interface = scheme == "file-object-store" && (wrapped || squire_failpoints::ENABLED);
    if !SCHEMES.contains(&scheme) && !interface {
        let instead = match scheme {
            "http" | "https" => "write s3://BUCKET/PREFIX, and give the server as AWS_ENDPOINT",
            _ => "use a local path, file:// or s3://",
        };
        return Err(Error::invalid(format!(
            "{}: scheme {scheme:?} is not supported; {instead}",
            without_secrets(uri)
        )));
    }
    refuse_special(trimmed)?;
    if scheme == "file" {
        return local_path(uri, rest);
    }
    let bucket = rest.split('/').next().unwrap_or_default();
    if bucket.is_empty() && scheme == "s3" {
        return Err(Error::invalid(format!(
            "{uri:?} names no bucket; write s3://BUCKET/PREFIX"
        )));
    }
    refuse_unexpanded(bucket)?;
    if let Some(part) = rest
        .split('/')
        .skip(1)
        .find(|part| ["", ".", ".."].contains(part))
    {
        return Err(Error::invalid(format!(
            "{uri:?} has the part {part:?} between two slashes, which no object's name has; leave it out"
        )));
    }
    if scheme == "s3" && bucket.ends_with("--x-s3") {
        return Err(Error::new(
            ErrorKind::Refused,
            format!(
                "{uri}: S3 Express buckets are not supported, since their version hint can turn backwards"
            ),
        ));
    }
    Ok(trimmed.to_owned())
}

fn absolute(uri: &str, path: &str) -> Result<String> {
    let path = std::path::absolute(path)
        .map_err(|e| Error::invalid(format!("{uri:?} is not a path")).caused_by(e))?;
    Ok(path.to_string_lossy().into_owned())
}

/// Refuses what a shell expands where it is not in quotes, and nobody else does.
fn refuse_unexpanded(location: &str) -> Result<()> {
    if !location.starts_with(['~', '$']) {
        return Ok(());
    }
    let first = location.split('/').next().unwrap_or_default();
    Err(Error::invalid(format!(
        "{location:?}: the shell did not expand {first}, which only it does; write the whole path. A directory of that name is ./{location}"
    )))
}

/// Refuses the memory of a process for what is to be found again: of the schemes that the engine takes, the one that no
/// command can.
///
/// # Errors
/// `InvalidInput`, as any other scheme that is not supported.
pub fn check_lasting(uri: &str) -> Result<()> {
    if !uri.starts_with("memory://") {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "{uri}: scheme \"memory\" is not supported: it is the memory of one process, which no other sees and which ends with it; use a local path or s3://"
    )))
}

/// The path of a `file:` URL, of which `rest` is what follows the two slashes: a host, which can only be this one, and
/// an absolute path.
fn local_path(uri: &str, rest: &str) -> Result<String> {
    let path = rest.strip_prefix("localhost").unwrap_or(rest);
    if path.starts_with('/') {
        let decoded = decoded(path);
        refuse_special(&decoded)?;
        return match decoded.chars().any(char::is_control) {
            true => Err(Error::invalid(format!(
                "{uri:?} stands for control characters"
            ))),
            false => absolute(uri, &decoded),
        };
    }
    Err(Error::invalid(format!(
        "{uri:?} names a host, where a file URL has none; did you mean file:///{rest}? A relative location is written without file://"
    )))
}

/// The path of a URL as it is on storage, `%20` being a space.
pub(crate) fn decoded(path: &str) -> String {
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let [first, others @ ..] = rest {
        let escaped = match others {
            [high, low, behind @ ..] if *first == b'%' => digit(high)
                .zip(digit(low))
                .and_then(|(high, low)| u8::try_from(high * 16 + low).ok())
                .map(|byte| (byte, behind)),
            _ => None,
        };
        let (byte, behind) = escaped.unwrap_or((*first, others));
        bytes.push(byte);
        rest = behind;
    }
    String::from_utf8(bytes).unwrap_or_else(|_| path.to_owned())
}

/// Where a normalised local path leads: links are followed, and `..` goes up from where they lead. What is not there yet
/// lies below the nearest folder that is.
fn real_path(path: &str) -> PathBuf {
    let mut real = PathBuf::new();
    for part in Path::new(path).components() {
        match part {
            std::path::Component::ParentDir => drop(real.pop()),
            part => real.push(part),
        }
        real = real.canonicalize().unwrap_or(real);
    }
    real
}

/// The place that a normalised URI names, the same for every way to write it.
pub fn canonical(uri: &str) -> String {
    match uri.contains("://") {
        true => uri.to_owned(),
        false => real_path(uri).to_string_lossy().into_owned(),
    }
}

/// The store that the local folder `real`, no link, lies in.
pub(super) fn store_around(real: &Path) -> Option<PathBuf> {
    let mut above = real.ancestors().skip(1);
    above
        .find(|folder| has_manifest(folder))
        .map(Path::to_path_buf)
}

/// Whether the local folder is a store; of a URL that is not known without asking.
pub fn is_local_store(place: &str) -> bool {
    !place.contains("://") && has_manifest(Path::new(place))
}

fn has_manifest(folder: &Path) -> bool {
    let versions = folder.join(MANIFEST_PATH).join("_versions");
    std::fs::read_dir(versions).is_ok_and(|mut entries| entries.next().is_some())
}

/// The store in which a local table lies to which a link leads.
///
/// # Errors
/// `Internal`.
pub(super) async fn store_behind(uri: &str) -> Result<Option<PathBuf>> {
    let written = uri.to_owned();
    on_disk(move || {
        let real = canonical(&written);
        if real == written || real.contains("://") {
            return None;
        }
        store_around(Path::new(&real))
    })
    .await
}

/// Refuses a location that leads among the files of a store by a link.
///
/// # Errors
/// `Refused`, with the store.
pub(super) async fn check_real(uri: &str) -> Result<()> {
    let written = uri.to_owned();
    let place = on_disk(move || canonical(&written)).await?;
    check_not_internal(uri, &place)
}

/// Follows links, which may lead to a disk that takes its time.
async fn on_disk<T: Send + 'static>(look: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let looked = tokio::task::spawn_blocking(look).await;
    looked.map_err(|e| Error::internal("looking where a path leads").caused_by(e))
}

/// Refuses what lies among the files of a store: they are kept by rules of their own, and are nobody's tables.
fn check_not_internal(uri: &str, place: &str) -> Result<()> {
    let parts: Vec<&str> = place.split('/').collect();
    // Whether `..` leads out of them again is known where links are followed.
    let at = parts.iter().position(|part| *part == INTERNAL);
    let Some(at) = at.filter(|_| !parts.contains(&"..")) else {
        return Ok(());
    };
    Err(Error::new(
        ErrorKind::Refused,
        format!(
            "{uri} is in the files of a store, which keeps its {INTERNAL} by itself; name the store: {}",
            parts[..at].join("/")
        ),
    ))
}

/// Refuses a file where a directory has to be; one that is not there yet can be made.
///
/// # Errors
/// `InvalidInput`.
pub(super) async fn check_directory(path: &str) -> Result<()> {
    let why = match tokio::fs::metadata(path).await {
        Ok(found) if !found.is_dir() => "is a file, not a directory",
        Ok(_) => return Ok(()),
        Err(e) => match Errno::from_io_error(&e) {
            Some(Errno::NOTDIR) => "leads through a file, which holds no directory",
            Some(Errno::NAMETOOLONG) => "has a name that is too long for a file system",
            Some(Errno::LOOP) => "leads through a link that leads to itself",
            _ => return Ok(()),
        },
    };
    Err(Error::invalid(format!("{path} {why}")))
}

/// `#` and `?` end the path of a URL.
fn refuse_special(location: &str) -> Result<()> {
    match location.chars().find(|c| matches!(c, '#' | '?')) {
        None => Ok(()),
        Some(special) => Err(Error::invalid(format!(
            "{:?}: {special:?} ends the path of a URL, so Lance and Squire would read two locations from it; use a location without it",
            without_secrets(location)
        ))),
    }
}

/// A URL with a slash too few is a typing error, not a directory whose name has a colon.
fn refuse_typo(path: &str) -> Result<()> {
    let colon = path.split_once(':').or_else(|| path.split_once("//"));
    let Some((scheme, rest)) = colon else {
        return Ok(());
    };
    let scheme = scheme.to_ascii_lowercase();
    if !URL_SCHEMES.contains(&scheme.as_str()) {
        return Ok(());
    }
    let rest = match rest.trim_start_matches('/') {
        "" if scheme == "file" => "PATH",
        "" => "BUCKET/PREFIX",
        rest => rest,
    };
    // A file URL has no host.
    let slashes = if scheme == "file" { "///" } else { "//" };
    Err(Error::invalid(format!(
        "{path:?} is neither a URL nor a path; did you mean {scheme}:{slashes}{rest}? A directory of that name is ./{path}"
    )))
}

/// Whether a normalised URI is on a local disk.
pub(super) fn is_local(uri: &str) -> bool {
    uri.split_once("://")
        .is_none_or(|(scheme, _)| scheme == "file-object-store")
}

/// Refuses storage options that make a bucket an S3 Express one, whatever its name.
///
/// # Errors
/// `Refused`, with the option.
pub fn check_options(options: &HashMap<String, String>) -> Result<()> {
    let express = options.iter().find(|(name, value)| {
        name.to_ascii_lowercase().ends_with("s3_express") && value.eq_ignore_ascii_case("true")
    });
    match express {
        None => Ok(()),
        Some((name, _)) => Err(Error::new(
            ErrorKind::Refused,
            format!(
                "storage option {name}: S3 Express buckets are not supported, since their version hint can turn backwards"
            ),
        )),
    }
}

/// The names under which Lance takes the endpoint of an S3-compatible storage, as an option or from the environment.
pub(super) const ENDPOINTS: [&str; 5] = [
    "aws_endpoint",
    "aws_endpoint_url",
    "aws_endpoint_url_s3",
    "endpoint",
    "endpoint_url",
];

/// Whether it is a host, or an address in brackets, and a port if there is one.
fn is_authority(host: &str) -> bool {
    let (name, behind) = match host.strip_prefix('[') {
        Some(rest) => rest.split_once(']').unwrap_or(("", "")),
        None => host.split_at(host.find(':').unwrap_or(host.len())),
    };
    let is_port = |port: &str| port.parse::<u16>().is_ok();
    !name.is_empty() && (behind.is_empty() || behind.strip_prefix(':').is_some_and(is_port))
}

/// Refuses an endpoint that requests cannot be sent to: Lance would panic at the first one, or say "builder error".
/// `environment`: the variables of this process, which options override.
///
/// # Errors
/// `InvalidInput`, with the setting and what to write.
pub fn check_endpoint(
    options: &HashMap<String, String>,
    environment: impl Iterator<Item = (String, String)>,
) -> Result<()> {
    let is = |name: &str, known: &[&str]| known.contains(&name.to_ascii_lowercase().as_str());
    let variables: Vec<(String, String)> = environment.collect();
    let own = options.keys().any(|name| is(name, &ENDPOINTS));
    let settings = || options.iter().chain(variables.iter().map(|(n, v)| (n, v)));
    let allowed = settings().any(|(name, value)| {
        is(name, &["allow_http", "aws_allow_http"]) && is(value, &["true", "1", "yes", "on", "y"])
    });
    let endpoints = settings().take(if own { options.len() } else { usize::MAX });
    for (name, value) in endpoints.filter(|(name, _)| is(name, &ENDPOINTS)) {
        let (scheme, rest) = value.split_once("://").unwrap_or(("", value));
        let host = rest.split('/').next().unwrap_or_default();
        if host.contains('@') {
            // What stands before the @ is nobody's to read.
            return Err(Error::invalid(format!(
                "{name} has a user or a password in it; leave them out, and give them as aws_access_key_id and aws_secret_access_key"
            )));
        }
        let odd = |c: char| c.is_whitespace() || c.is_control() || "\"<>\\^`{|}".contains(c);
        let is_half =
            scheme.is_empty() && (value.starts_with("http:") || value.starts_with("https:"));
        if is_half || !is_authority(host) || rest.contains(odd) {
            let why = "is no URL; write it as http://HOST:PORT or https://HOST";
            return Err(Error::invalid(format!("{name} = {value:?} {why}")));
        }
        match scheme {
            "https" => {}
            "http" if allowed => {}
            "http" => {
                return Err(Error::invalid(format!(
                    "{name} = {value:?} is plain http, which is off; set allow_http = \"true\" (AWS_ALLOW_HTTP=true) or use https"
                )));
            }
            "" => {
                return Err(Error::invalid(format!(
                    "{name} = {value:?} has no scheme; did you mean \"http://{rest}\" or \"https://{rest}\"?"
                )));
            }
            other => {
                return Err(Error::invalid(format!(
                    "{name} = {value:?}: scheme {other:?} is not one of http and https"
                )));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{canonical, check_endpoint, check_options, normalise};
    use crate::error::ErrorKind;

    #[test]
    fn an_endpoint_that_requests_cannot_be_sent_to_is_named_with_what_to_write() {
        let with = |name: &str, value: &str, env: &[(&str, &str)]| {
            let options = [(name.to_owned(), value.to_owned())].into();
            let env = env.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned()));
            check_endpoint(&options, env.collect::<Vec<_>>().into_iter())
        };
        let told = |value, env| with("endpoint", value, env).unwrap_err().to_string();
        let bare = told("127.0.0.1:9000", &[]);
        assert!(bare.contains("endpoint = \"127.0.0.1:9000\""), "{bare}");
        assert!(bare.contains("\"http://127.0.0.1:9000\""), "{bare}");
        let plain = told("http://127.0.0.1:9000", &[]);
        assert!(plain.contains("allow_http"), "{plain}");
        for bad in [
            "",
            "http://",
            "http://:9000",
            "https://a b",
            "ftp://host",
            "http:/127.0.0.1:1",
            "https://127.0.0.1:99999",
            "https://[::1",
            "https://host:",
        ] {
            assert!(with("AWS_ENDPOINT", bad, &[]).is_err(), "{bad}");
        }
        let secret = told("https://user:secret@host", &[]);
        assert!(!secret.contains("secret@"), "{secret}");
        assert!(with("endpoint", "https://[::1]:9000", &[]).is_ok());
        let allowed = [("AWS_ALLOW_HTTP", "True")];
        assert!(with("endpoint", "http://127.0.0.1:9000/sub", &allowed).is_ok());
        assert!(with("endpoint", "https://minio.example", &[]).is_ok());
        let from_environment = [("AWS_ENDPOINT_URL", "minio:9000")];
        assert!(with("region", "r", &from_environment).is_err());
    }

    #[test]
    fn an_express_bucket_cannot_hide_behind_an_option() {
        let with =
            |name: &str, value: &str| check_options(&[(name.to_owned(), value.to_owned())].into());
        assert!(with("s3_express", "true").is_err());
        assert!(with("AWS_S3_EXPRESS", "True").is_err());
        assert!(with("s3_express", "false").is_ok());
        assert!(with("region", "true").is_ok());
    }

    #[test]
    fn only_safe_places_are_taken() {
        let of = |uri| normalise(uri, false);
        assert_eq!(of("/tmp/a/").ok().as_deref(), Some("/tmp/a"));
        assert_eq!(of("file:///tmp/a").ok().as_deref(), Some("/tmp/a"));
        assert_eq!(of("s3://b/p/").ok().as_deref(), Some("s3://b/p"));
        assert!(of("s3+ddb://b/p").is_err());
        assert!(of("s3://fast--use1-az4--x-s3/p").is_err());
        for nothing in ["", "/", " ", " /tmp/a", "/tmp/a "] {
            assert!(of(nothing).is_err(), "{nothing:?}");
        }
    }

    #[test]
    fn the_files_of_a_store_are_no_place() {
        for (uri, store) in [
            ("s3://b/lake/_squire/manifest.lance", "s3://b/lake"),
            ("s3://b/_squire", "s3://b"),
            ("/tmp/lake/_squire/", "/tmp/lake"),
            ("file:///tmp/lake/_squire/x", "/tmp/lake"),
        ] {
            let told = normalise(uri, false).unwrap_err();
            assert_eq!(told.kind(), ErrorKind::Refused, "{told}");
            let told = told.to_string();
            assert!(told.ends_with(&format!("the store: {store}")), "{told}");
        }
        assert!(normalise("/tmp/my_squire/_squired", false).is_ok());
        assert!(normalise("/tmp/lake/_squire/..", false).is_ok());
    }

    #[test]
    fn a_file_url_has_an_absolute_path_and_no_other_host() {
        let of = |uri| normalise(uri, false).map_err(|e| e.to_string());
        assert_eq!(of("file://localhost/tmp/a/").as_deref(), Ok("/tmp/a"));
        for (wrong, instead) in [
            ("file://tmp/a", "file:///tmp/a?"),
            ("file://localhosts/a", "file:///localhosts/a?"),
            ("file:/tmp/a", "file:///tmp/a?"),
            ("file:tmp/a", "file:///tmp/a?"),
        ] {
            let told = of(wrong).unwrap_err();
            assert!(told.contains(instead), "{wrong}: {told}");
        }
        assert!(of("file://localhost").is_err());
    }

    #[test]
    fn what_no_storage_takes_is_told_with_what_to_write() {
        for (uri, why) in [
            ("s3:///x", "names no bucket; write s3://BUCKET/PREFIX"),
            ("s3://", "did you mean s3://BUCKET/PREFIX?"),
            ("s3://$BUCKET/x", "did not expand $BUCKET"),
            ("s3//bucket/x", "did you mean s3://bucket/x?"),
            ("~/x", "did not expand ~,"),
            ("$HOME/x", "did not expand $HOME,"),
            ("s3://b//x", "the part \"\""),
            ("s3://b/../x", "the part \"..\""),
            ("a\0b", "control characters"),
            ("a\nb", "control characters"),
            ("file:///a%0Ab", "control characters"),
            ("file:///a%23b", "ends the path"),
        ] {
            let told = normalise(uri, false).unwrap_err();
            assert_eq!(told.kind(), ErrorKind::InvalidInput, "{told}");
            let told = told.to_string();
            assert!(told.contains(why) && !told.contains('\n'), "{uri}: {told}");
        }
        for fine in ["./~/x", "./$HOME/x", "h_ns$t", "a~b", "/a//b/./c"] {
            assert!(normalise(fine, false).is_ok(), "{fine}");
        }
    }

    #[test]
    fn one_place_has_one_name() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let at = |rest: &str| format!("{}/{rest}", root.display());
        std::fs::create_dir_all(at("real/lake")).unwrap();
        std::os::unix::fs::symlink("real/lake", at("link")).unwrap();
        let of = |uri: &str| canonical(&normalise(uri, false).unwrap());
        let real = at("real/lake");
        for uri in [
            at("link"),
            at("real//lake/"),
            at("real/./lake"),
            at("other/../real/lake"),
            // Of where the link leads, not of where it stands.
            at("link/../lake"),
            format!("file://{}", at("link")),
            format!("file://{}", at("real/%6Cake")),
        ] {
            assert_eq!(of(&uri), real, "{uri}");
        }
        assert_eq!(of(&at("link/new/one")), format!("{real}/new/one"));
    }

    #[test]
    fn no_location_carries_a_secret_or_is_without_end() {
        for uri in [
            "s3://AKIA:hunter2@bucket/p",
            "s3://hunter2@bucket",
            "https://user:hunter2@minio:9000/b",
            "gs://hunter2@b/x",
            "https://minio/b?X-Amz-Signature=hunter2",
            "s3://b/p?sig=hunter2",
        ] {
            let told = normalise(uri, false).unwrap_err();
            assert_eq!(told.kind(), ErrorKind::InvalidInput, "{told}");
            assert!(!told.to_string().contains("hunter2"), "{told}");
        }
        for fine in ["s3://bucket/a@b", "/tmp/a@b", "a@b"] {
            assert!(normalise(fine, false).is_ok(), "{fine}");
        }
        for long in ["/tmp/", "s3://b/", "gs://"] {
            let told = normalise(&format!("{long}{}", "a".repeat(5_000)), false);
            let told = told.unwrap_err().to_string();
            assert!(told.len() < 300 && told.contains("bytes"), "{told}");
        }
    }

    #[test]
    fn a_typing_error_is_no_directory() {
        let of = |uri| normalise(uri, false).map_err(|e| e.to_string());
        for typo in ["s3:/b/p", "s3:b/p", "S3:/b", "file:/tmp/a", "gs:/b"] {
            assert!(of(typo).unwrap_err().contains("did you mean"), "{typo}");
        }
        for special in ["s3://b/p#x", "s3://b/p?x=1", "/tmp/a#b", "a?b"] {
            assert!(
                of(special).unwrap_err().contains("ends the path"),
                "{special}"
            );
        }
        assert!(
            of("https://minio:9000/b")
                .unwrap_err()
                .contains("AWS_ENDPOINT")
        );
        assert!(of("./s3:/b").is_ok());
        assert!(of("/tmp/a:b").is_ok());
    }
}
