//! Targets that know a source already.

use std::sync::{Arc, Mutex, PoisonError};

use godwit_migration::transport::{Dialer, Identity, Token, TransportError, Tuning};
use godwit_proto::migrate::VERSIONS;

/// The certificate that was shown to the target of the last forecast: its token is good for nobody else.
#[derive(Debug, Default)]
pub struct Acquaintances(Option<(Token, Arc<Identity>)>);

impl Acquaintances {
    /// A dialer that the holder of `token` knows, if it knows anybody.
    ///
    /// # Errors
    /// As [`Dialer::new`].
    pub fn dialer(
        known: &Mutex<Self>,
        token: Token,
        tuning: Tuning,
    ) -> Result<Dialer, TransportError> {
        let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
        let identity = match &known.0 {
            Some((of, identity)) if *of == token => identity.clone(),
            _ => Arc::new(Identity::generate()?),
        };
        known.0 = Some((token.clone(), identity.clone()));
        Dialer::known_as(identity, token, tuning, VERSIONS)
    }
}
