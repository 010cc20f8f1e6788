//! Where the gateway is reached, from its flags.
use std::net::SocketAddr;

use anyhow::bail;
use axum::http::Uri;

/// The URL without a trailing slash, and its host.
pub fn public_url(uri: &Uri) -> anyhow::Result<(String, String)> {
    match (uri.scheme_str(), uri.host()) {
        (Some("https"), Some(host)) => {
            let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
            Ok((uri.to_string().trim_end_matches('/').to_owned(), host))
        }
        _ => bail!("--public-url {uri}: must be https://HOST:PORT"),
    }
}

pub fn server_names(host: String, listen: SocketAddr) -> Vec<String> {
    let mut names = vec![host];
    if !listen.ip().is_unspecified() {
        names.push(listen.ip().to_string());
    }
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_public_url_is_https_with_a_host() {
        let parse = |text: &str| public_url(&text.parse().unwrap());
        assert_eq!(
            parse("https://10.0.0.1:7443/").unwrap(),
            ("https://10.0.0.1:7443".into(), "10.0.0.1".into())
        );
        assert_eq!(parse("https://[::1]:7443").unwrap().1, "::1");
        assert!(parse("http://10.0.0.1").is_err());
        assert!(parse("10.0.0.1:7443").is_err());
    }
}
