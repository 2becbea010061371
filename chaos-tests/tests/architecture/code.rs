//! Rust sources as far as these checks need to understand them: what is code, what is a test.

use std::ops::Range;

/// The text with comments, strings and characters blanked out. Lines and columns stay.
pub(crate) fn code_only(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = match &bytes[at..] {
            [b'/', b'/', ..] => find(bytes, at, b"\n").unwrap_or(bytes.len()),
            [b'/', b'*', ..] => block_comment_end(bytes, at),
            [b'"', ..] => string_end(bytes, at + 1),
            [b'r', b'"' | b'#', ..] if !in_word(bytes, at) => match raw_string_end(bytes, at) {
                Some(end) => end,
                None => {
                    at += 1;
                    continue;
                }
            },
            [b'\'', ..] => match char_end(bytes, at) {
                Some(end) => end,
                None => {
                    at += 1;
                    continue;
                }
            },
            _ => {
                at += 1;
                continue;
            }
        };
        let end = end.min(bytes.len());
        code[at..end]
            .iter_mut()
            .filter(|byte| **byte != b'\n')
            .for_each(|byte| *byte = b' ');
        at = end;
    }
    String::from_utf8_lossy(&code).into_owned()
}

/// The words (identifiers and keywords) of `code` with the lines they are on, from 0.
pub(crate) fn words(code: &str) -> impl Iterator<Item = (usize, &str)> {
    code.lines().enumerate().flat_map(|(line, text)| {
        text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .filter(|word| !word.is_empty())
            .map(move |word| (line, word))
    })
}

/// The lines, from 0, of `code` that belong to items under `#[cfg(test)]` or `#[test]`.
pub(crate) fn test_lines(code: &str) -> Vec<Range<usize>> {
    let line_of = |at: usize| code[..at].matches('\n').count();
    let mut lines = Vec::new();
    for mark in ["#[cfg(test)]", "#[test]"] {
        for (at, _) in code.match_indices(mark) {
            lines.push(line_of(at)..line_of(item_end(code, at + mark.len())) + 1);
        }
    }
    lines
}

/// The names of the modules in files of their own that `code` has for its tests alone.
pub(crate) fn test_modules(code: &str) -> Vec<String> {
    let after = code
        .match_indices("#[cfg(test)]")
        .map(|(at, mark)| &code[at + mark.len()..]);
    after
        .filter_map(|rest| {
            let item = &rest[..rest.find([';', '{'])?];
            let is_declared = rest.as_bytes().get(item.len()) == Some(&b';');
            let name = item.split_once("mod ")?.1.trim();
            is_declared.then(|| name.to_owned())
        })
        .collect()
}

/// The end of the item that begins at `from`: its `;`, or the brace that closes it.
fn item_end(code: &str, from: usize) -> usize {
    let mut depth = 0;
    for (at, byte) in code.bytes().enumerate().skip(from) {
        match byte {
            b';' if depth == 0 => return at,
            b'{' | b'(' | b'[' => depth += 1,
            b'}' | b')' | b']' => {
                depth -= 1;
                if depth <= 0 && byte == b'}' {
                    return at;
                }
            }
            _ => {}
        }
    }
    code.len()
}

fn find(bytes: &[u8], from: usize, what: &[u8]) -> Option<usize> {
    let found = bytes[from..]
        .windows(what.len())
        .position(|window| window == what);
    found.map(|at| from + at)
}

fn in_word(bytes: &[u8], at: usize) -> bool {
    let before = at.checked_sub(1).map(|at| bytes[at]);
    // `br"…"` and `cr"…"` begin a string as well.
    before.is_some_and(|b| (b.is_ascii_alphanumeric() && !b"bc".contains(&b)) || b == b'_')
}

fn block_comment_end(bytes: &[u8], from: usize) -> usize {
    let mut depth = 0;
    let mut at = from;
    while at < bytes.len() {
        match &bytes[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => {
                (depth, at) = (depth - 1, at + 2);
                if depth == 0 {
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    at
}

fn string_end(bytes: &[u8], from: usize) -> usize {
    let mut at = from;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    at
}

fn raw_string_end(bytes: &[u8], from: usize) -> Option<usize> {
    let hashes = bytes[from + 1..]
        .iter()
        .take_while(|byte| **byte == b'#')
        .count();
    let quote = from + 1 + hashes;
    (bytes.get(quote) == Some(&b'"')).then_some(())?;
    let close = [b"\"".as_slice(), &vec![b'#'; hashes]].concat();
    Some(find(bytes, quote + 1, &close).map_or(bytes.len(), |at| at + close.len()))
}

/// The end of a character; `None` at a lifetime or label.
fn char_end(bytes: &[u8], from: usize) -> Option<usize> {
    match bytes.get(from + 1)? {
        b'\\' => find(bytes, from + 3, b"'").map(|at| at + 1),
        first => {
            let length = match first {
                0..0x80 => 1,
                0x80..0xe0 => 2,
                0xe0..0xf0 => 3,
                _ => 4,
            };
            let close = from + 1 + length;
            (bytes.get(close) == Some(&b'\'')).then_some(close + 1)
        }
    }
}

#[test]
fn comments_and_literals_are_no_code() {
    let text = r###"
let a = "unsafe \" unsafe"; // unsafe
/* unsafe /* unsafe */ unsafe */ let b = r#"unsafe " unsafe"#;
let c: &'static str = 'x'; let d = ('"', '\'', '\\', 'é', b'"'); let e = br"unsafe";
unsafe { f() }
"###;
    let code = code_only(text);
    let found: Vec<_> = words(&code).filter(|(_, word)| *word == "unsafe").collect();
    assert_eq!(found, [(4, "unsafe")]);
    assert_eq!(code.lines().count(), text.lines().count());
    assert!(code.contains("&'static str"), "{code}");
}

#[test]
fn tests_are_told_from_the_rest() {
    let code = "fn a() {}\n#[cfg(test)]\nmod mock;\n#[test]\nfn b() {\n {}\n}\nfn c() {}\n";
    assert_eq!(test_lines(code), [1..3, 3..7]);
    assert_eq!(test_modules(code), ["mock"]);
    assert!(test_modules("#[cfg(test)]\nmod tests { }").is_empty());
}
