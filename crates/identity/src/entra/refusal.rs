use keyward_core::{Code, Error, UnixTime};
use keyward_egress::{Response, parse_retry_after};

use crate::response::TokenError;
use crate::retry::{Again, Failed};
use crate::{AssertionClaims, parse_token_error};

/// No answer came. Connections that broke are tried again, a name or a certificate that is wrong is not.
pub(super) fn of_connection(error: Error) -> Failed {
    match error.code() {
        Code::Connect | Code::Timeout | Code::TokenProtocol => Failed::policy(error),
        _ => Failed::never(error),
    }
}

/// An answer that is no token.
///
/// `may_change` tells whether the proof, read again, may be another one.
pub(super) fn of_answer(
    response: &Response,
    claims: Option<&AssertionClaims>,
    may_change: bool,
    now: UnixTime,
) -> Failed {
    let header = |name: &str| response.headers.get(name).and_then(|value| value.to_str().ok());
    let wait = parse_retry_after(header, now);
    let status = response.status;
    let said = parse_token_error(&response.body);
    let trace = said.trace_id.clone().unwrap_or_default();
    let error = |code, message: String| Error::new(code, message).detail(format_args!("trace id {trace}"));
    match (status, said.code) {
        (429, _) | (_, Some(50_196)) => {
            let error = error(Code::TokenThrottled, format!("Entra asks to slow down (status {status})"));
            Failed::policy(error.retry_after(wait))
        }
        (408 | 500..=599, _) | (_, Some(90_033)) => {
            let error = error(Code::TokenUnavailable, format!("Entra fails (status {status})"));
            Failed::policy(error.retry_after(wait))
        }
        (_, None) if said.error.is_none() => Failed::never(error(
            Code::TokenProtocol,
            format!("the token endpoint answered {status} and not as Entra does; a proxy may be in the way"),
        )),
        (_, number) => {
            let error = error(Code::TokenRefused, refused(status, &said, claims));
            let again = match number {
                Some(70_021 | 700_211 | 700_212 | 700_213) => Again::Propagating,
                Some(700_024) if claims.is_some() && may_change => Again::Reread,
                _ => Again::Never,
            };
            Failed { error, again }
        }
    }
}

fn refused(status: u16, said: &TokenError, claims: Option<&AssertionClaims>) -> String {
    let name = match (said.code, &said.error) {
        (Some(number), _) => format!("AADSTS{number}"),
        (None, Some(word)) => format!("{word}, status {status}"),
        (None, None) => format!("status {status}"),
    };
    let mut message = format!("Entra refused the token request ({name})");
    if let Some(hint) = said.code.and_then(hint) {
        message.push_str(": ");
        message.push_str(hint);
    }
    if let Some(claims) = claims {
        message.push_str("; the federated token says ");
        message.push_str(&claims.describe());
    }
    message
}

/// Our own words for the numbers that people meet. Source: Microsoft's list of AADSTS codes and public reports.
fn hint(number: u32) -> Option<&'static str> {
    Some(match number {
        70_021 | 700_211 => {
            "no federated credential of this identity has the token's issuer; its trailing slash counts"
        }
        700_212 => "no federated credential of this identity has the token's audience",
        700_213 => "no federated credential of this identity has the token's subject",
        7_002_138 => "a federated credential has this subject but for upper and lower case, which count",
        700_016 => "this tenant has no application with this client id",
        700_024 => "the assertion is outside its time; check the clock and that the token file is renewed",
        700_027 => "the assertion's signature or certificate is not registered with the application",
        7_000_215 => "the client secret is wrong; its value is needed, not its id",
        7_000_222 => "the client secret has expired",
        90_002 => "there is no such tenant in this cloud",
        50_001 | 500_011 => "the vault's resource is not known in this tenant; check the cloud",
        53_003 => "conditional access blocks this identity",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use keyward_core::ErrorKind;

    fn answer(status: u16, body: &str) -> Failed {
        let claims = AssertionClaims {
            issuer: "https://issuer/".to_owned(),
            subject: "system:serviceaccount:a:b".to_owned(),
            audience: "api://AzureADTokenExchange".to_owned(),
            ..AssertionClaims::default()
        };
        let mut headers = http::HeaderMap::new();
        headers.insert("retry-after", http::HeaderValue::from_static("7"));
        let response = Response { status, headers, body: body.to_owned().into() };
        of_answer(&response, Some(&claims), true, UnixTime::ZERO)
    }

    fn numbered(status: u16, number: u32) -> Failed {
        answer(
            status,
            &format!(
                r#"{{"error":"invalid_client","error_description":"AADSTS{number}: hunter2","error_codes":[{number}]}}"#
            ),
        )
    }

    #[test]
    fn each_number_is_retried_as_documented_and_named_without_entras_words() {
        for (number, again) in [
            (70_021, Again::Propagating),
            (700_211, Again::Propagating),
            (700_212, Again::Propagating),
            (700_213, Again::Propagating),
            (700_024, Again::Reread),
            (7_002_138, Again::Never),
            (7_000_215, Again::Never),
            (7_000_222, Again::Never),
            (700_016, Again::Never),
            (123_456, Again::Never),
        ] {
            let failed = numbered(401, number);
            assert_eq!((failed.again, failed.error.code()), (again, Code::TokenRefused), "{number}");
            let text = failed.error.to_string();
            assert!(
                text.contains(&format!("AADSTS{number}")) && text.contains("system:serviceaccount:a:b"),
                "{text}"
            );
            assert!(!text.contains("hunter2"), "{text}");
        }
    }

    #[test]
    fn throttling_and_failures_are_transient_and_keep_the_wait_that_was_asked_for() {
        for (failed, code) in [
            (numbered(429, 50_196), Code::TokenThrottled),
            (answer(429, ""), Code::TokenThrottled),
            (numbered(400, 50_196), Code::TokenThrottled),
            (numbered(400, 90_033), Code::TokenUnavailable),
            (answer(503, "<html>"), Code::TokenUnavailable),
        ] {
            assert_eq!((failed.error.code(), failed.again), (code, Again::Policy));
            assert_eq!(failed.error.wait(), Some(std::time::Duration::from_secs(7)));
        }
    }

    #[test]
    fn limit_8_a_page_of_a_proxy_keeps_its_status_and_is_no_refusal() {
        let failed = answer(403, "<html>blocked by corporate policy</html>");
        assert_eq!((failed.error.code(), failed.error.kind()), (Code::TokenProtocol, ErrorKind::Protocol));
        assert!(failed.error.message().contains("403") && !failed.error.message().contains("corporate"));
    }
}
