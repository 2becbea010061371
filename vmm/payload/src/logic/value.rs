//! Values as they are written on the command line.

/// Decimal or 0x, with an optional K, M, G or T for powers of 1024.
pub(crate) fn number(text: &str) -> Option<u64> {
    // The standard parsers take a sign, we do not.
    if text.contains('+') {
        return None;
    }
    if let Some(hex) = text.strip_prefix("0x") {
        return u64::from_str_radix(hex, 16).ok();
    }
    let (digits, shift) = match text.as_bytes().last()? {
        b'K' => (&text[..text.len() - 1], 10),
        b'M' => (&text[..text.len() - 1], 20),
        b'G' => (&text[..text.len() - 1], 30),
        b'T' => (&text[..text.len() - 1], 40),
        _ => (text, 0),
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// A number from 0 up to 10 with up to six decimals.
pub(crate) fn decimal(text: &str) -> Option<f64> {
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    if part.len() > 6 || text.contains('+') {
        return None;
    }
    let mut scale = 1.0;
    for _ in 0..part.len() {
        scale *= 10.0;
    }
    let value = f64::from(whole.parse::<u8>().ok()?) + f64::from(part.parse::<u32>().ok()?) / scale;
    (value <= 10.0).then_some(value)
}

pub(crate) fn percent(text: &str) -> Option<u8> {
    u8::try_from(number(text)?)
        .ok()
        .filter(|percent| *percent <= 100)
}

pub(crate) fn switch(text: &str) -> Option<bool> {
    match text {
        "on" | "1" => Some(true),
        "off" | "0" => Some(false),
        _ => None,
    }
}

pub(crate) fn block_size(text: &str) -> Option<u32> {
    let bytes = u32::try_from(number(text)?).ok()?;
    (bytes.is_multiple_of(512) && (512..=1 << 20).contains(&bytes)).then_some(bytes)
}

pub(crate) fn address(text: &str) -> Option<[u8; 4]> {
    let mut parts = text.split('.');
    let mut address = [0; 4];
    for byte in &mut address {
        *byte = parts.next()?.parse().ok()?;
    }
    parts.next().is_none().then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_take_suffixes_and_hexadecimal() {
        assert_eq!(number("12"), Some(12));
        assert_eq!(number("3K"), Some(3_072));
        assert_eq!(number("0x10"), Some(16));
        assert_eq!(number("2T"), Some(2 << 40));
        for bad in ["", "M", "0x", "0x+1", "+1", "-1", "1.5", "99999999999T"] {
            assert_eq!(number(bad), None, "{bad}");
        }
    }

    #[test]
    fn decimals_are_short_and_unsigned() {
        assert_eq!(decimal("0.99"), Some(0.99));
        assert_eq!(decimal("3"), Some(3.0));
        for bad in ["1.", "+1", "-1", "1.2345678", "10.5", "x", "1e3"] {
            assert_eq!(decimal(bad), None, "{bad}");
        }
    }
}
