use keyward_core::{Code, Error, SecretBytes, Served, State};

/// What a reader is given of an object: its value, or why there is none (the gRPC column of promise 3).
pub(crate) fn answer(served: &Served) -> Result<&SecretBytes, Error> {
    match served.state {
        State::Pending | State::Fresh | State::Stale => served.value.as_ref().map_err(Error::clone),
        State::Expired => Err(withheld(served, Code::StaleLimit, || {
            Error::new(
                Code::StaleLimit,
                "the value could not be confirmed for longer than rotation.maxStale; see why with ListSecrets and the \
                 log, or raise rotation.maxStale",
            )
        })),
        State::Revoked => {
            Err(served.error.clone().or_else(|| served.value.as_ref().err().cloned()).unwrap_or_else(|| {
                Error::new(Code::VaultForbidden, "the vault has refused this object on every check")
                    .object(&served.source)
            }))
        }
    }
}

/// The error that stands in place of the value when it has `code` already, else a new one.
fn withheld(served: &Served, code: Code, otherwise: impl FnOnce() -> Error) -> Error {
    match &served.value {
        Err(error) if error.code() == code => error.clone(),
        _ => otherwise().object(&served.source),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn served(state: State, value: Result<SecretBytes, Error>, error: Option<Code>) -> Served {
        Served {
            name: "db".to_owned(),
            value,
            version: None,
            source: "https://shop.vault.azure.net/secrets/db".to_owned(),
            content_type: None,
            created: None,
            updated: None,
            expires: None,
            fetched: None,
            state,
            error: error.map(|code| Error::new(code, "why")),
            sequence: 1,
        }
    }

    fn code(served: &Served) -> Option<Code> {
        answer(served).err().map(|error| error.code())
    }

    #[test]
    fn fresh_and_stale_values_are_given() {
        for state in [State::Fresh, State::Stale] {
            let value = SecretBytes::copy_from(b"v");
            assert_eq!(code(&served(state, Ok(value), Some(Code::VaultThrottled))), None);
        }
    }

    #[test]
    fn an_expired_value_is_withheld_even_though_its_file_stays() {
        let value = SecretBytes::copy_from(b"v");
        assert_eq!(
            code(&served(State::Expired, Ok(value), Some(Code::VaultThrottled))),
            Some(Code::StaleLimit)
        );
    }

    #[test]
    fn a_revoked_value_is_withheld_with_the_reason_of_the_vault() {
        let value = || Ok(SecretBytes::copy_from(b"v"));
        assert_eq!(
            code(&served(State::Revoked, value(), Some(Code::ObjectDisabled))),
            Some(Code::ObjectDisabled)
        );
        assert_eq!(code(&served(State::Revoked, value(), None)), Some(Code::VaultForbidden));
    }

    #[test]
    fn an_object_that_was_never_read_fails_as_its_first_read_did() {
        let error = Error::new(Code::Dns, "no such host");
        assert_eq!(code(&served(State::Pending, Err(error), None)), Some(Code::Dns));
    }
}
