//! PURE: whom the dashboard answers. The `Host` header, against pages of strangers that make a browser ask for them
//! (DNS rebinding), and the password, where there is one.

use std::net::IpAddr;

/// The names and addresses by which this dashboard is asked for.
///
/// A rebinding page comes with its own name as `Host`, so names are a short list. An address cannot be rebound, but
/// only the addresses that lead here are answered.
#[derive(Debug)]
pub(super) struct Hosts {
    listen: IpAddr,
    names: Vec<String>,
}

impl Hosts {
    /// Of a dashboard that listens on `listen` and is also known by `names`.
    pub(super) fn new(listen: IpAddr, names: &[String]) -> Hosts {
        Hosts { listen, names: names.iter().map(|name| name.to_ascii_lowercase()).collect() }
    }

    /// Whether a request may come in for this host. HTTP/1.0 has none, and no browser speaks it.
    pub(super) fn accept(&self, host: Option<&str>) -> bool {
        let Some(host) = host else { return true };
        let name = without_port(host).to_ascii_lowercase();
        let name = name.strip_suffix('.').unwrap_or(&name);
        let literal = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
        match literal.parse::<IpAddr>() {
            Ok(address) if self.listen.is_unspecified() => !address.is_unspecified(),
            Ok(address) => address == self.listen || (address.is_loopback() && self.listen.is_loopback()),
            Err(_) => name == "localhost" || self.names.iter().any(|known| known == name),
        }
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    }
}

/// The password of the page. No `Debug`: it would show it.
pub(super) struct Password(String);

impl Password {
    /// Fewer characters are guessed.
    pub(super) const LENGTH_MIN: usize = 12;

    /// `None` where it is too short.
    pub(super) fn new(text: &str) -> Option<Password> {
        (text.chars().count() >= Password::LENGTH_MIN).then(|| Password(text.to_owned()))
    }

    /// Whether an `Authorization` header carries it. Any user name will do.
    pub(super) fn opens(&self, authorization: Option<&str>) -> bool {
        let Some((scheme, token)) = authorization.and_then(|text| text.trim().split_once(' ')) else {
            return false;
        };
        let Ok(decoded) = base64_simd::STANDARD.decode_to_vec(token.trim()) else { return false };
        let Some(colon) = decoded.iter().position(|byte| *byte == b':') else { return false };
        scheme.eq_ignore_ascii_case("basic") && same(&decoded[colon + 1..], self.0.as_bytes())
    }
}

/// In a time that does not tell where they differ.
fn same(given: &[u8], wanted: &[u8]) -> bool {
    let differ = wanted
        .iter()
        .enumerate()
        .fold(0, |differ, (n, byte)| differ | (byte ^ given.get(n).copied().unwrap_or(!byte)));
    std::hint::black_box(differ) == 0 && given.len() == wanted.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(listen: &str, names: &[&str]) -> Hosts {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        Hosts::new(listen.parse().unwrap(), &names)
    }

    #[test]
    fn on_loopback_only_loopback_names_and_the_given_ones_are_answered() {
        let hosts = hosts("127.0.0.1", &["Ops.example.org"]);
        for good in
            ["localhost", "LOCALHOST:8480", "127.0.0.1:8480", "[::1]:8480", "[::1]", "ops.example.org:80"]
        {
            assert!(hosts.accept(Some(good)), "{good}");
        }
        for bad in
            ["evil.example", "10.0.0.1", "localhost.evil.example", "", ":8480", "[::2]", "127.0.0.1.nip.io"]
        {
            assert!(!hosts.accept(Some(bad)), "{bad}");
        }
        assert!(hosts.accept(None));
    }

    #[test]
    fn on_an_address_that_address_is_answered_and_on_all_of_them_any() {
        assert!(hosts("10.1.2.3", &[]).accept(Some("10.1.2.3:8480")));
        assert!(!hosts("10.1.2.3", &[]).accept(Some("10.1.2.4:8480")));
        assert!(!hosts("10.1.2.3", &[]).accept(Some("hl7.hospital.example")));
        assert!(hosts("0.0.0.0", &[]).accept(Some("10.1.2.4")));
        assert!(hosts("::", &[]).accept(Some("[fd00::1]:8480")));
        assert!(!hosts("::", &[]).accept(Some("evil.example")));
    }

    #[test]
    fn the_password_opens_and_nothing_near_it() {
        let password = Password::new("correct horse: battery").unwrap();
        let header = |text: &str| format!("Basic {}", base64_simd::STANDARD.encode_to_string(text));
        assert!(password.opens(Some(&header("anybody:correct horse: battery"))));
        assert!(password.opens(Some(&header(":correct horse: battery").replace("Basic", "basic"))));
        for wrong in
            ["a:correct horse: batter", "a:correct horse: battery2", "a:", "correct horse: battery", ""]
        {
            assert!(!password.opens(Some(&header(wrong))), "{wrong}");
        }
        assert!(!password.opens(None));
        assert!(!password.opens(Some("Basic !!!")));
        assert!(!password.opens(Some("Bearer YTpjb3JyZWN0")));
        assert!(Password::new("short").is_none());
    }
}
