//! Logarithm and exponential, which `core` lacks.

const LN_2: f64 = core::f64::consts::LN_2;

/// Natural logarithm of a positive, normal number.
pub(crate) fn ln(x: f64) -> f64 {
    let bits = x.to_bits();
    let mut exponent = ((bits >> 52) & 0x7ff) as i64 - 1023;
    let mut mantissa = f64::from_bits((bits & ((1 << 52) - 1)) | (1023 << 52));
    if mantissa > core::f64::consts::SQRT_2 {
        mantissa /= 2.0;
        exponent += 1;
    }
    // ln m = 2 artanh((m - 1) / (m + 1)), |argument| < 0.172.
    let z = (mantissa - 1.0) / (mantissa + 1.0);
    let square = z * z;
    let mut term = z;
    let mut sum = 0.0;
    let mut odd = 1.0;
    while odd < 24.0 {
        sum += term / odd;
        term *= square;
        odd += 2.0;
    }
    2.0 * sum + exponent as f64 * LN_2
}

/// e to the power `x`, for `x` within -700..700.
pub(crate) fn exp(x: f64) -> f64 {
    let x = x.clamp(-700.0, 700.0);
    let scaled = x / LN_2;
    let power = (scaled + if scaled < 0.0 { -0.5 } else { 0.5 }) as i64;
    let rest = x - power as f64 * LN_2;
    let mut term = 1.0;
    let mut sum = 1.0;
    let mut n = 1.0;
    while n < 16.0 {
        term *= rest / n;
        sum += term;
        n += 1.0;
    }
    sum * f64::from_bits(((1023 + power) as u64) << 52)
}

/// `base` (positive) to the power `exponent`.
pub(crate) fn pow(base: f64, exponent: f64) -> f64 {
    exp(ln(base) * exponent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_standard_library() {
        for x in [
            1e-9,
            0.5,
            1.0,
            1.41,
            1.42,
            2.0,
            10.0,
            123_456.789,
            2.0f64.powi(40),
        ] {
            assert!(
                (ln(x) - x.ln()).abs() < 1e-12 * x.ln().abs().max(1.0),
                "ln {x}"
            );
            for e in [-2.0, -0.01, 0.0, 0.3, 0.99, 3.0] {
                let want = x.powf(e);
                assert!(
                    (pow(x, e) - want).abs() < 1e-10 * want,
                    "{x} to {e}: {} not {want}",
                    pow(x, e)
                );
            }
        }
    }
}
