//! `*`, `?` and `[abc]` in the path of an `!include`.

use std::path::{Component, Path, PathBuf};

/// Whether a path has anything to match.
pub(crate) fn is_pattern(path: &str) -> bool {
    path.contains(['*', '?', '['])
}

/// Existing paths that match a pattern below a folder, in name order. As in a shell, a wildcard matches no `/` and no
/// leading dot. The folder's own name is taken literally, whatever stands in it.
pub(crate) fn expand(folder: &Path, pattern: &str) -> std::io::Result<Vec<PathBuf>> {
    let mut found = vec![folder.to_owned()];
    for component in Path::new(pattern).components() {
        let text = component.as_os_str().to_string_lossy();
        if !matches!(component, Component::Normal(_)) || !is_pattern(&text) {
            for path in &mut found {
                path.push(component);
            }
            continue;
        }
        let wanted: Vec<char> = text.chars().collect();
        let mut next = Vec::new();
        for folder in &found {
            let folder_read = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
            let mut names = Vec::new();
            for entry in std::fs::read_dir(folder_read)? {
                let name = entry?.file_name();
                let shown = name.to_string_lossy();
                let hidden = shown.starts_with('.') && !text.starts_with('.');
                if !hidden && matches(&wanted, &shown.chars().collect::<Vec<_>>()) {
                    names.push(name);
                }
            }
            names.sort();
            next.extend(names.into_iter().map(|name| folder.join(name)));
        }
        found = next;
    }
    // Names after the last wildcard (`*/hl7.yaml`) are there in some of the folders and not in others.
    found.retain(|path| path.symlink_metadata().is_ok());
    Ok(found)
}

/// Whether a name matches. Linear in the product of the lengths: a star remembers only its last try.
fn matches(pattern: &[char], name: &[char]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        let step = match pattern.get(p) {
            Some('*') => {
                star = Some((p + 1, n));
                p += 1;
                continue;
            }
            Some('?') => Some(1),
            Some('[') => class(&pattern[p..], name[n]),
            Some(c) if *c == name[n] => Some(1),
            _ => None,
        };
        match (step, star) {
            (Some(width), _) => {
                p += width;
                n += 1;
            }
            (None, Some((after, from))) => {
                star = Some((after, from + 1));
                p = after;
                n = from + 1;
            }
            (None, None) => return false,
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// `[abc]`, `[a-z]`, `[!a]` at the start of a pattern: its width where the character is in it. Without an end it is a
/// plain bracket.
fn class(pattern: &[char], c: char) -> Option<usize> {
    let Some(end) = pattern.iter().skip(2).position(|c| *c == ']').map(|at| at + 2) else {
        return (c == '[').then_some(1);
    };
    let (negated, set) = match pattern[1] {
        '!' => (true, &pattern[2..end]),
        _ => (false, &pattern[1..end]),
    };
    let mut within = false;
    let mut at = 0;
    while at < set.len() {
        if at + 2 < set.len() && set[at + 1] == '-' {
            within |= (set[at]..=set[at + 2]).contains(&c);
            at += 3;
        } else {
            within |= set[at] == c;
            at += 1;
        }
    }
    (within != negated).then_some(end + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_match(pattern: &str, name: &str) -> bool {
        matches(&pattern.chars().collect::<Vec<_>>(), &name.chars().collect::<Vec<_>>())
    }

    #[test]
    fn wildcards_match_as_in_a_shell() {
        let table = [
            ("*.yaml", "adt.yaml", true),
            ("*.yaml", "adt.yml", false),
            ("a?t.yaml", "adt.yaml", true),
            ("a?t.yaml", "at.yaml", false),
            ("[a-c]*.yaml", "bad.yaml", true),
            ("[!a-c]*.yaml", "bad.yaml", false),
            ("*a*b*c*", "xaxxbxxcx", true),
            ("*a*b*c*", "xaxxcxxbx", false),
            ("[ab", "[ab", true),
            ("**", "anything", true),
        ];
        for (pattern, name, wanted) in table {
            assert_eq!(is_match(pattern, name), wanted, "{pattern} {name}");
        }
    }

    #[test]
    fn many_stars_end_soon() {
        assert!(!is_match(&"*a".repeat(50), &"a".repeat(49)));
    }

    #[test]
    fn matches_come_in_name_order_without_hidden_files() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.yaml", "a.yaml", ".hidden.yaml", "c.txt"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let found = expand(folder.path(), "*.yaml").unwrap();
        assert_eq!(found, [folder.path().join("a.yaml"), folder.path().join("b.yaml")]);
        let odd = folder.path().join("x[1]");
        std::fs::create_dir(&odd).unwrap();
        std::fs::write(odd.join("c.yaml"), "").unwrap();
        assert_eq!(expand(&odd, "*.yaml").unwrap(), [odd.join("c.yaml")]);
        let absolute = format!("{}/[b].yaml", folder.path().display());
        assert_eq!(expand(&odd, &absolute).unwrap(), [folder.path().join("b.yaml")]);
    }
}
