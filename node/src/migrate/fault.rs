//! Faults that users have a migration meet, to see how their software takes it.
//!
//! They strike in the process of a guest, or in one that awaits a guest, and only in one that was
//! started for that with `--chaos`.

use godwit_migration::fault::{Faults, Injection, PlanError, Side};
use godwit_proto::codes::{CodedError, ErrorCode};

/// The most faults of one migration at one side.
const MAX_FAULTS: usize = 64;

/// The faults that `texts` name, all of which must be of `side`.
///
/// # Errors
/// What is wrong with the first that makes no sense.
pub fn plan(texts: &[String], side: Side) -> Result<Faults, CodedError> {
    if texts.len() > MAX_FAULTS {
        let text = format!("{} faults, at most {MAX_FAULTS} are injected", texts.len());
        return Err(CodedError::new(ErrorCode::Usage, text));
    }
    let injections = texts.iter().map(|text| one(text, side));
    Ok(Faults::new(injections.collect::<Result<_, _>>()?))
}

fn one(text: &str, side: Side) -> Result<Injection, CodedError> {
    let fix = match side {
        Side::Source => "`godwit migrate --help` lists steps and faults",
        Side::Target => "`godwit receive --help` lists steps and faults",
    };
    let injection: Injection = text.parse().map_err(|error: PlanError| {
        CodedError::from_error(ErrorCode::Usage, &error).with_fix(fix)
    })?;
    if injection.step.side() != side {
        let elsewhere = match side {
            Side::Source => "give it to `godwit receive --inject`",
            Side::Target => "give it to `godwit migrate --inject`",
        };
        let text = format!("{} is not a step of the {side}", injection.step);
        return Err(CodedError::new(ErrorCode::Usage, text).with_fix(elsewhere));
    }
    Ok(injection)
}

/// Says which faults did not come about, so that nobody takes the move for one that met them.
pub(super) fn report_missed(faults: &Faults) {
    for injection in faults.missed() {
        tracing::warn!(fault = %injection, "a fault was not injected: its step did not come");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_of_the_other_side_is_refused_with_the_place_for_it() {
        let texts = ["target:prepare=error".to_owned()];
        let error = plan(&texts, Side::Source).unwrap_err();
        assert_eq!(error.code(), ErrorCode::Usage);
        assert!(error.to_string().contains("godwit receive"), "{error}");
        assert!(plan(&texts, Side::Target).is_ok());
        assert!(plan(&vec![texts[0].clone(); 65], Side::Target).is_err());
    }
}
