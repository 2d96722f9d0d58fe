use keyward_core::Result;
use keyward_core::cloud::Cloud;
use keyward_core::config::{Identity, Method};

use super::{FederatedDefaults, IdentitySettings, ManagedEndpoint, Selector, invalid};

impl IdentitySettings {
    /// What a configuration says, completed from the variables that Azure's webhooks set. Without a method it is
    /// figured out: a service principal's file, else a metadata setting, else a federated token, else App Service.
    ///
    /// # Errors
    /// `KW_CONFIG_INVALID` naming the settings or variables that are missing.
    pub fn from_config(
        config: &Identity,
        cloud: &Cloud,
        vars: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self> {
        let set = |name: &str| vars(name).is_some_and(|value| !value.trim().is_empty());
        let method = config.method.map_or_else(
            || {
                if config.secret_file.is_some() || config.certificate_file.is_some() {
                    Ok(Method::ServicePrincipal)
                } else if config.object_id.is_some() || config.resource_id.is_some() || config.metadata_endpoint.is_some() {
                    Ok(Method::ManagedIdentity)
                } else if config.token_file.is_some() || set("AZURE_FEDERATED_TOKEN_FILE") {
                    Ok(Method::WorkloadIdentity)
                } else if set("IDENTITY_ENDPOINT") && set("IDENTITY_HEADER") {
                    Ok(Method::ManagedIdentity)
                } else {
                    Err(invalid(
                        "no identity was found: label the pod azure.workload.identity/use: \"true\" for workload \
                         identity, or set identity.method: managed-identity or service-principal"
                            .to_owned(),
                    ))
                }
            },
            Ok,
        )?;
        match method {
            Method::WorkloadIdentity => Self::federated(
                FederatedDefaults {
                    client_id: config.client_id.clone(),
                    tenant_id: config.tenant_id.clone(),
                    token_file: config.token_file.clone(),
                    authority_host: config.authority_host.clone(),
                    cloud_authority: Some(cloud.authority_host.clone()),
                },
                vars,
            ),
            Method::ManagedIdentity => Ok(managed(config, vars)),
            Method::ServicePrincipal => principal(config, cloud, vars),
        }
    }
}

/// The client id of the pod's variables is not taken: it names the federated identity, which need not be the node's.
fn managed(config: &Identity, vars: &dyn Fn(&str) -> Option<String>) -> IdentitySettings {
    let selector = if let Some(id) = &config.client_id {
        Selector::ClientId(id.clone())
    } else if let Some(id) = &config.object_id {
        Selector::ObjectId(id.clone())
    } else if let Some(id) = &config.resource_id {
        Selector::ResourceId(id.clone())
    } else {
        Selector::System
    };
    let endpoint = config
        .metadata_endpoint
        .clone()
        .map_or_else(|| ManagedEndpoint::from_vars(vars), |base_url| ManagedEndpoint::Imds { base_url });
    IdentitySettings::ManagedIdentity { selector, endpoint }
}

fn principal(
    config: &Identity,
    cloud: &Cloud,
    vars: &dyn Fn(&str) -> Option<String>,
) -> Result<IdentitySettings> {
    let var = |name: &str| vars(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
    let mut missing = Vec::new();
    let mut required = |value: &Option<String>, name: &'static str, setting: &'static str| {
        value.clone().or_else(|| var(name)).unwrap_or_else(|| {
            missing.push(format!("{setting} (or {name})"));
            String::new()
        })
    };
    let client_id = required(&config.client_id, "AZURE_CLIENT_ID", "identity.clientId");
    let tenant_id = required(&config.tenant_id, "AZURE_TENANT_ID", "identity.tenantId");
    if !missing.is_empty() {
        return Err(invalid(format!("a service principal needs {}", missing.join(", "))));
    }
    let authority_host = config
        .authority_host
        .clone()
        .or_else(|| var("AZURE_AUTHORITY_HOST"))
        .unwrap_or_else(|| cloud.authority_host.clone());
    match (config.secret_file.clone(), config.certificate_file.clone()) {
        (Some(secret_file), None) => {
            Ok(IdentitySettings::ServicePrincipalSecret { client_id, tenant_id, secret_file, authority_host })
        }
        (None, Some(certificate_file)) => Ok(IdentitySettings::ServicePrincipalCertificate {
            client_id,
            tenant_id,
            certificate_file,
            password_file: config.certificate_password_file.clone(),
            authority_host,
            send_chain: config.send_chain,
        }),
        _ => Err(invalid(
            "a service principal needs exactly one of identity.secretFile and identity.certificateFile"
                .to_owned(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(config: &Identity, pairs: &[(&str, &str)]) -> Result<IdentitySettings> {
        let vars =
            |name: &str| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        IdentitySettings::from_config(config, &Cloud::public(), &vars)
    }

    const POD: [(&str, &str); 3] = [
        ("AZURE_CLIENT_ID", "c1"),
        ("AZURE_TENANT_ID", "t1"),
        ("AZURE_FEDERATED_TOKEN_FILE", "/var/run/token"),
    ];

    #[test]
    fn a_pod_with_the_webhooks_variables_needs_no_settings() {
        let key = found(&Identity::default(), &POD).ok().unwrap().identity_key();
        assert_eq!(key.to_string(), "workload-identity client c1 tenant t1");
    }

    #[test]
    fn without_anything_the_error_says_what_to_do() {
        let error = found(&Identity::default(), &[]).err().unwrap();
        assert!(error.message().contains("azure.workload.identity/use"), "{error}");
    }

    #[test]
    fn files_of_a_service_principal_win_over_the_pods_token() {
        let config = Identity { secret_file: Some("/s".into()), ..Identity::default() };
        assert_eq!(found(&config, &POD).ok().unwrap().identity_key().method, "service-principal");
    }

    #[test]
    fn a_managed_identity_does_not_take_the_federated_client_id() {
        let config = Identity { method: Some(Method::ManagedIdentity), ..Identity::default() };
        assert_eq!(found(&config, &POD).ok().unwrap().identity_key().client, "system");
    }

    #[test]
    fn a_sovereign_cloud_gives_its_own_authority() {
        let government = Cloud::built_in("AzureUSGovernmentCloud").unwrap();
        let vars =
            |name: &str| POD.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        let settings = IdentitySettings::from_config(&Identity::default(), &government, &vars).ok().unwrap();
        assert_eq!(settings.identity_key().authority, "https://login.microsoftonline.us");
    }
}
