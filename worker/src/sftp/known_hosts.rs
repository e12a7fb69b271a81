//! Which host keys are known: the format of OpenSSH's `known_hosts` (sshd(8)). Pure; text in, verdict out.
//!
//! Hashed names, wildcards, negated patterns, `[host]:port`, several keys of a host and `@revoked` are understood.
//! `@cert-authority` lines and lines that cannot be read are left out: what they would allow is not allowed. libssh2's
//! own reader is not used: it knows neither wildcards nor revoked keys.

use ring::{digest, hmac};

/// Algorithms a server may sign with, best first, each with the type of key it uses. SHA-1 comes last and only for old
/// servers that know nothing else: the key itself is pinned.
const ALGORITHMS: [(&str, &str); 7] = [
    ("ssh-ed25519", "ssh-ed25519"),
    ("ecdsa-sha2-nistp256", "ecdsa-sha2-nistp256"),
    ("ecdsa-sha2-nistp384", "ecdsa-sha2-nistp384"),
    ("ecdsa-sha2-nistp521", "ecdsa-sha2-nistp521"),
    ("rsa-sha2-512", "ssh-rsa"),
    ("rsa-sha2-256", "ssh-rsa"),
    ("ssh-rsa", "ssh-rsa"),
];

/// The keys of a `known_hosts` file.
#[derive(Debug, Default)]
pub struct KnownHosts {
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    line: usize,
    revoked: bool,
    hosts: Hosts,
    kind: String,
    key: Vec<u8>,
}

#[derive(Debug)]
enum Hosts {
    Hashed { salt: Vec<u8>, hash: Vec<u8> },
    Patterns(Vec<String>),
}

/// What the file says of a key that a server shows.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is this host's.
    Known,
    /// Nothing is known of this host.
    Unknown,
    /// This host has another key, on this line.
    Changed {
        /// Counted from 1.
        line: usize,
    },
    /// The key is marked as revoked, on this line.
    Revoked {
        /// Counted from 1.
        line: usize,
    },
}

impl KnownHosts {
    /// Reads a file's text.
    pub fn parse(text: &str) -> KnownHosts {
        let entries = text.lines().enumerate().filter_map(|(at, line)| entry(at + 1, line)).collect();
        KnownHosts { entries }
    }

    /// What is said of `key` (the public key as it travels) for a host. A host on a port of its own that has no line is
    /// also known by the same key under its plain name, as with OpenSSH.
    pub fn verdict(&self, host: &str, port: u16, key: &[u8]) -> Verdict {
        let name = name(host, port);
        let plain = host.to_ascii_lowercase();
        let of_host = |e: &&Entry| e.hosts.hold(&name) || e.hosts.hold(&plain);
        if let Some(entry) = self.entries.iter().filter(of_host).find(|e| e.revoked && e.key == key) {
            return Verdict::Revoked { line: entry.line };
        }
        let mut other = None;
        for entry in self.of(&name) {
            if entry.key == key {
                return Verdict::Known;
            }
            other = other.or(Some(entry.line));
        }
        match other {
            Some(line) => Verdict::Changed { line },
            None if self.of(&plain).any(|e| e.key == key) => Verdict::Known,
            None => Verdict::Unknown,
        }
    }

    /// The algorithms to offer a host, those of the keys known of it first: asked for another, a server would show a key
    /// that is its own and not on file.
    pub fn algorithms(&self, host: &str, port: u16) -> String {
        let name = name(host, port);
        let plain = host.to_ascii_lowercase();
        let known = |kind: &str| self.of(&name).chain(self.of(&plain)).any(|e| e.kind == kind);
        let (first, rest): (Vec<_>, Vec<_>) = ALGORITHMS.iter().partition(|(_, kind)| known(kind));
        let names: Vec<&str> = first.iter().chain(&rest).map(|(algorithm, _)| *algorithm).collect();
        names.join(",")
    }

    fn of(&self, name: &str) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(move |e| !e.revoked && e.hosts.hold(name))
    }
}

impl Hosts {
    fn hold(&self, name: &str) -> bool {
        match self {
            Hosts::Hashed { salt, hash } => {
                let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, salt);
                hmac::verify(&key, name.as_bytes(), hash).is_ok()
            }
            Hosts::Patterns(patterns) => {
                let negated =
                    |p: &String| p.strip_prefix('!').is_some_and(|p| matches(p.as_bytes(), name.as_bytes()));
                !patterns.iter().any(negated)
                    && patterns.iter().any(|p| matches(p.as_bytes(), name.as_bytes()))
            }
        }
    }
}

/// The name a host has in the file.
pub fn name(host: &str, port: u16) -> String {
    let host = host.to_ascii_lowercase();
    if port == 22 { host } else { format!("[{host}]:{port}") }
}

/// The fingerprint of a key, as `ssh-keygen -l` shows it.
pub fn fingerprint(key: &[u8]) -> String {
    let hash = digest::digest(&digest::SHA256, key);
    format!("SHA256:{}", base64_simd::STANDARD_NO_PAD.encode_to_string(hash.as_ref()))
}

/// The line that makes a key known; `None` where the key does not say what it is.
pub fn line(host: &str, port: u16, key: &[u8]) -> Option<String> {
    let encoded = base64_simd::STANDARD.encode_to_string(key);
    Some(format!("{} {} {encoded}", name(host, port), kind(key)?))
}

/// The type a key names first in itself.
pub fn kind(key: &[u8]) -> Option<&str> {
    let (length, rest) = key.split_first_chunk::<4>()?;
    let kind = std::str::from_utf8(rest.get(..u32::from_be_bytes(*length) as usize)?).ok()?;
    let sound = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'@' | b'.');
    (!kind.is_empty() && kind.bytes().all(sound)).then_some(kind)
}

fn entry(line: usize, text: &str) -> Option<Entry> {
    let mut words = text.split_ascii_whitespace();
    let mut hosts = words.next()?;
    let revoked = hosts == "@revoked";
    if revoked {
        hosts = words.next()?;
    } else if hosts.starts_with(['#', '@']) {
        return None;
    }
    let declared = words.next()?;
    let key = decode(words.next()?)?;
    // The key's own word counts; a line whose type says something else was tampered with or cut.
    let kind = kind(&key).filter(|kind| *kind == declared)?.to_owned();
    let hosts = match hosts.strip_prefix("|1|") {
        Some(hashed) => {
            let (salt, hash) = hashed.split_once('|')?;
            Hosts::Hashed { salt: decode(salt)?, hash: decode(hash)? }
        }
        None => Hosts::Patterns(hosts.split(',').map(str::to_ascii_lowercase).collect()),
    };
    Some(Entry { line, revoked, hosts, kind, key })
}

fn decode(text: &str) -> Option<Vec<u8>> {
    base64_simd::STANDARD.decode_to_vec(text).ok()
}

/// `*` for any characters, `?` for one. Linear in the product of both lengths at most: the last star is the only one
/// gone back to.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut star = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(&c) if c == b'?' || c == name[n] => (p, n) = (p + 1, n + 1),
            _ => match star {
                Some((at, taken)) => {
                    star = Some((at, taken + 1));
                    (p, n) = (at + 1, taken + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&c| c == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(kind: &str, rest: &[u8]) -> Vec<u8> {
        [&(kind.len() as u32).to_be_bytes()[..], kind.as_bytes(), rest].concat()
    }

    fn ed(n: u8) -> Vec<u8> {
        key("ssh-ed25519", &[n; 36])
    }

    fn text(lines: &[(&str, &[u8])]) -> KnownHosts {
        let line = |(hosts, key): &(&str, &[u8])| {
            format!(
                "{hosts} {} {} someone@somewhere\n",
                kind(key).unwrap(),
                base64_simd::STANDARD.encode_to_string(key)
            )
        };
        KnownHosts::parse(&lines.iter().map(line).collect::<String>())
    }

    #[test]
    fn a_host_is_known_by_its_own_key_only() {
        let known = text(&[("pacs,10.0.0.1", &ed(1)), ("other", &ed(2))]);
        assert_eq!(known.verdict("pacs", 22, &ed(1)), Verdict::Known);
        assert_eq!(known.verdict("PACS", 22, &ed(1)), Verdict::Known);
        assert_eq!(known.verdict("10.0.0.1", 22, &ed(1)), Verdict::Known);
        assert_eq!(known.verdict("pacs", 22, &ed(2)), Verdict::Changed { line: 1 });
        assert_eq!(known.verdict("unheard-of", 22, &ed(1)), Verdict::Unknown);
    }

    #[test]
    fn any_of_several_keys_of_a_host_will_do() {
        let rsa = key("ssh-rsa", &[9; 300]);
        let known = text(&[("pacs", &ed(1)), ("pacs", &rsa), ("pacs", &ed(3))]);
        assert_eq!(known.verdict("pacs", 22, &ed(3)), Verdict::Known);
        assert_eq!(known.verdict("pacs", 22, &rsa), Verdict::Known);
        // A key of a type that is not on file is another key, not a first one.
        assert_eq!(
            known.verdict("pacs", 22, &key("ecdsa-sha2-nistp256", &[1])),
            Verdict::Changed { line: 1 }
        );
    }

    #[test]
    fn a_port_of_its_own_has_its_own_line_and_falls_back_to_the_plain_name() {
        let known = text(&[("pacs", &ed(1)), ("[pacs]:2222", &ed(2))]);
        assert_eq!(known.verdict("pacs", 2222, &ed(2)), Verdict::Known);
        assert_eq!(known.verdict("pacs", 2222, &ed(1)), Verdict::Changed { line: 2 });
        assert_eq!(known.verdict("pacs", 2223, &ed(1)), Verdict::Known);
        assert_eq!(known.verdict("pacs", 2223, &ed(2)), Verdict::Unknown);
        assert_eq!(known.verdict("pacs", 22, &ed(2)), Verdict::Changed { line: 1 });
    }

    #[test]
    fn names_that_ssh_keygen_hashed_are_understood() {
        // The fingerprint is what `ssh-keygen -l` showed of this key.
        let line = "|1|dSnhFHESuUeV/Wo8TVQkr5o8TpE=|2aswWXLYQauJjRsfiT8DMUYHJVI= ssh-ed25519 \
                    AAAAC3NzaC1lZDI1NTE5AAAAIM4m1GKkNRk0aIgwSP+YMZZnuA5I/eEXFoysX0g2JO08";
        let known = KnownHosts::parse(line);
        let key = decode(line.rsplit(' ').next().unwrap()).unwrap();
        assert_eq!(fingerprint(&key), "SHA256:5VN0mt0PavE0+UY4NoqQpeLceOkzQxiAUpVLtmB4fwo");
        assert_eq!(known.verdict("pacs.example.org", 2222, &key), Verdict::Known);
        assert_eq!(known.verdict("pacs.example.org", 22, &key), Verdict::Unknown);
        assert_eq!(known.verdict("pacs.example.org", 2222, &ed(2)), Verdict::Changed { line: 1 });
    }

    #[test]
    fn wildcards_and_negated_patterns_are_understood() {
        let known = text(&[("*.lab,!bad.lab,ward-?", &ed(1))]);
        assert_eq!(known.verdict("good.lab", 22, &ed(1)), Verdict::Known);
        assert_eq!(known.verdict("bad.lab", 22, &ed(1)), Verdict::Unknown);
        assert_eq!(known.verdict("ward-1", 22, &ed(1)), Verdict::Known);
        assert_eq!(known.verdict("ward-12", 22, &ed(1)), Verdict::Unknown);
        assert!(matches(b"*a*b", b"xxaxxabxb") && !matches(b"*a*b", b"xxaxxabx") && matches(b"**", b""));
    }

    #[test]
    fn a_revoked_key_is_refused_though_another_line_knows_it() {
        let known = text(&[("pacs", &ed(1)), ("@revoked *", &ed(1))]);
        assert_eq!(known.verdict("pacs", 22, &ed(1)), Verdict::Revoked { line: 2 });
        assert_eq!(known.verdict("pacs", 22, &ed(2)), Verdict::Changed { line: 1 });
    }

    #[test]
    fn what_cannot_be_read_allows_nothing() {
        let good = base64_simd::STANDARD.encode_to_string(ed(1));
        for line in [
            format!("# pacs ssh-ed25519 {good}"),
            format!("@cert-authority pacs ssh-ed25519 {good}"),
            format!("pacs ssh-rsa {good}"),
            format!("pacs ssh-ed25519 {}", &good[..good.len() - 3]),
            "pacs ssh-ed25519 AAAA".to_owned(),
            "pacs ssh-ed25519".to_owned(),
            "pacs".to_owned(),
            format!("|1|pacs ssh-ed25519 {good}"),
            "\0\u{fffd}".to_owned(),
        ] {
            assert_eq!(KnownHosts::parse(&line).verdict("pacs", 22, &ed(1)), Verdict::Unknown, "{line:?}");
        }
    }

    #[test]
    fn the_types_on_file_are_asked_for_first() {
        let known = text(&[("pacs", &key("ssh-rsa", &[1; 20]))]);
        assert!(known.algorithms("pacs", 22).starts_with("rsa-sha2-512,rsa-sha2-256,ssh-rsa,ssh-ed25519,"));
        assert!(known.algorithms("other", 22).starts_with("ssh-ed25519,"));
    }

    #[test]
    fn a_key_s_own_line_makes_it_known() {
        let line = line("pacs", 2222, &ed(7)).unwrap();
        assert_eq!(KnownHosts::parse(&line).verdict("pacs", 2222, &ed(7)), Verdict::Known);
        assert_eq!(super::line("pacs", 22, b"\0\0\0\x05ssh\n-"), None);
    }
}
