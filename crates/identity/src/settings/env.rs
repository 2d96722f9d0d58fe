use std::path::PathBuf;

use keyward_core::{Result, SecretBytes};

use super::{CaSource, IMDS, IdentitySettings, ManagedEndpoint, invalid};

/// What the configuration says about a federated identity; what it leaves out comes from the variables that the
/// workload identity webhook sets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FederatedDefaults {
    /// Instead of `AZURE_CLIENT_ID`.
    pub client_id: Option<String>,
    /// Instead of `AZURE_TENANT_ID`.
    pub tenant_id: Option<String>,
    /// Instead of `AZURE_FEDERATED_TOKEN_FILE`.
    pub token_file: Option<PathBuf>,
    /// Instead of `AZURE_AUTHORITY_HOST`.
    pub authority_host: Option<String>,
    /// The cloud's authority, where neither setting nor variable names one.
    pub cloud_authority: Option<String>,
}

const PUBLIC_AUTHORITY: &str = "https://login.microsoftonline.com";

impl IdentitySettings {
    /// Workload identity or identity binding as the variables say: `AZURE_CLIENT_ID`, `AZURE_TENANT_ID`,
    /// `AZURE_FEDERATED_TOKEN_FILE`, `AZURE_AUTHORITY_HOST`, `AZURE_KUBERNETES_TOKEN_PROXY`, `AZURE_KUBERNETES_CA_FILE`
    /// or `AZURE_KUBERNETES_CA_DATA`, `AZURE_KUBERNETES_SNI_NAME`.
    ///
    /// # Errors
    /// As [`Self::federated`].
    pub fn from_env(vars: &dyn Fn(&str) -> Option<String>) -> Result<Self> {
        Self::federated(FederatedDefaults::default(), vars)
    }

    /// As [`Self::from_env`], where `given` goes before the variables.
    ///
    /// # Errors
    /// `KW_CONFIG_INVALID` naming every missing variable; or when the proxy's variables contradict each other, by the
    /// rules of Azure's SDKs: CA and SNI only with a proxy, and the CA as file or as data.
    pub fn federated(given: FederatedDefaults, vars: &dyn Fn(&str) -> Option<String>) -> Result<Self> {
        let var =
            |name: &str| vars(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
        let mut missing = Vec::new();
        let mut required = |value: Option<String>, name: &'static str, setting: &'static str| {
            value.or_else(|| var(name)).unwrap_or_else(|| {
                missing.push(format!("{setting} (or {name})"));
                String::new()
            })
        };
        let client_id = required(given.client_id, "AZURE_CLIENT_ID", "identity.clientId");
        let tenant_id = required(given.tenant_id, "AZURE_TENANT_ID", "identity.tenantId");
        let token_file = given.token_file.map(|path| path.to_string_lossy().into_owned());
        let token_file =
            PathBuf::from(required(token_file, "AZURE_FEDERATED_TOKEN_FILE", "identity.tokenFile"));
        if !missing.is_empty() {
            return Err(invalid(format!(
                "workload identity needs {}; the workload identity webhook sets the variables on pods labelled \
                 azure.workload.identity/use: \"true\"",
                missing.join(", ")
            )));
        }
        let authority_host = given
            .authority_host
            .or_else(|| var("AZURE_AUTHORITY_HOST"))
            .or(given.cloud_authority)
            .unwrap_or_else(|| PUBLIC_AUTHORITY.to_owned());

        let (ca_file, ca_data) = (var("AZURE_KUBERNETES_CA_FILE"), var("AZURE_KUBERNETES_CA_DATA"));
        let sni_name = var("AZURE_KUBERNETES_SNI_NAME");
        let Some(proxy_url) = var("AZURE_KUBERNETES_TOKEN_PROXY") else {
            if ca_file.is_some() || ca_data.is_some() || sni_name.is_some() {
                return Err(invalid(
                    "AZURE_KUBERNETES_CA_FILE, AZURE_KUBERNETES_CA_DATA and AZURE_KUBERNETES_SNI_NAME mean nothing \
                     without AZURE_KUBERNETES_TOKEN_PROXY"
                        .to_owned(),
                ));
            }
            let settings = Self::WorkloadIdentity { client_id, tenant_id, token_file, authority_host };
            return settings.check().map(|()| settings);
        };
        let ca = match (ca_file, ca_data) {
            (Some(_), Some(_)) => {
                return Err(invalid(
                    "only one of AZURE_KUBERNETES_CA_FILE and AZURE_KUBERNETES_CA_DATA may be set".to_owned(),
                ));
            }
            (Some(file), None) => Some(CaSource::File(file.into())),
            (None, Some(data)) => Some(CaSource::Data(data)),
            (None, None) => None,
        };
        let settings = Self::IdentityBinding {
            client_id,
            tenant_id,
            token_file,
            proxy_url,
            ca,
            sni_name,
            authority_host,
        };
        settings.check().map(|()| settings)
    }
}

impl ManagedEndpoint {
    /// App Service when `IDENTITY_ENDPOINT` and `IDENTITY_HEADER` are both set and it is not Service Fabric
    /// (`IDENTITY_SERVER_THUMBPRINT`); else the metadata service, at `AZURE_POD_IDENTITY_AUTHORITY_HOST` or
    /// `IMDS_ENDPOINT` where one is set. Stray variables of other services are passed over.
    #[must_use]
    pub fn from_vars(vars: &dyn Fn(&str) -> Option<String>) -> Self {
        let var =
            |name: &str| vars(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
        let app_service =
            (var("IDENTITY_ENDPOINT"), var("IDENTITY_HEADER"), var("IDENTITY_SERVER_THUMBPRINT"));
        if let (Some(endpoint), Some(header), None) = app_service {
            return Self::AppService { endpoint, header: SecretBytes::from(header) };
        }
        let base_url = var("AZURE_POD_IDENTITY_AUTHORITY_HOST").or_else(|| var("IMDS_ENDPOINT"));
        Self::Imds { base_url: base_url.unwrap_or_else(|| IMDS.to_owned()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keyward_core::Code;

    const POD: [(&str, &str); 3] = [
        ("AZURE_CLIENT_ID", "c1"),
        ("AZURE_TENANT_ID", "t1"),
        ("AZURE_FEDERATED_TOKEN_FILE", "/var/run/token"),
    ];
    const PROXY: (&str, &str) = ("AZURE_KUBERNETES_TOKEN_PROXY", "https://proxy.example/x");

    fn lookup<'a>(pairs: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<String> + 'a {
        |name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
    }

    fn with(more: &[(&str, &str)]) -> Result<IdentitySettings> {
        IdentitySettings::from_env(&lookup(&[&POD, more].concat()))
    }

    #[test]
    fn the_webhooks_variables_make_a_workload_identity_of_the_public_cloud() {
        let settings = with(&[]).ok().unwrap();
        assert_eq!(settings.identity_key().to_string(), "workload-identity client c1 tenant t1");
        assert_eq!(settings.identity_key().authority, PUBLIC_AUTHORITY);
        assert_eq!(settings.files(), [PathBuf::from("/var/run/token")]);
    }

    #[test]
    fn what_the_configuration_says_goes_before_the_variables_and_the_variable_before_the_cloud() {
        let given = FederatedDefaults {
            client_id: Some("mine".to_owned()),
            cloud_authority: Some("https://login.microsoftonline.us".to_owned()),
            ..FederatedDefaults::default()
        };
        let settings = IdentitySettings::federated(given.clone(), &lookup(&POD)).ok().unwrap();
        let key = settings.identity_key();
        assert_eq!(
            (key.client.as_str(), key.authority.as_str()),
            ("mine", "https://login.microsoftonline.us")
        );
        let pairs = [&POD[..], &[("AZURE_AUTHORITY_HOST", "https://login.chinacloudapi.cn/")]].concat();
        let settings = IdentitySettings::federated(given, &lookup(&pairs)).ok().unwrap();
        assert_eq!(settings.identity_key().authority, "https://login.chinacloudapi.cn");
    }

    #[test]
    fn every_missing_variable_is_named_at_once() {
        let error = IdentitySettings::from_env(&|_| None).err().unwrap();
        for name in [
            "AZURE_CLIENT_ID",
            "AZURE_TENANT_ID",
            "AZURE_FEDERATED_TOKEN_FILE",
            "azure.workload.identity/use",
        ] {
            assert!(error.message().contains(name), "{error}");
        }
    }

    #[test]
    fn a_token_proxy_makes_an_identity_binding() {
        let settings =
            with(&[PROXY, ("AZURE_KUBERNETES_CA_FILE", "/ca"), ("AZURE_KUBERNETES_SNI_NAME", "n.example")]);
        let Ok(IdentitySettings::IdentityBinding { ca, sni_name, .. }) = settings else {
            panic!("not a binding")
        };
        assert_eq!((ca, sni_name.as_deref()), (Some(CaSource::File("/ca".into())), Some("n.example")));
    }

    #[test]
    fn the_proxys_variables_must_not_contradict_each_other() {
        let (file, data) = (("AZURE_KUBERNETES_CA_FILE", "/ca"), ("AZURE_KUBERNETES_CA_DATA", "pem"));
        let sni = ("AZURE_KUBERNETES_SNI_NAME", "n.example");
        for bad in [
            vec![file],
            vec![data],
            vec![sni],
            vec![PROXY, file, data],
            vec![("AZURE_KUBERNETES_TOKEN_PROXY", "http://proxy.example")],
            vec![("AZURE_KUBERNETES_TOKEN_PROXY", "https://u:p@proxy.example")],
            vec![("AZURE_KUBERNETES_TOKEN_PROXY", "https://proxy.example/?q=1")],
            vec![("AZURE_KUBERNETES_TOKEN_PROXY", "https://proxy.example/#f")],
        ] {
            let error = with(&bad).err().unwrap();
            assert!(
                error.code() == Code::ConfigInvalid && error.message().contains("AZURE_KUBERNETES"),
                "{bad:?}: {error}"
            );
        }
    }

    #[test]
    fn limit_1_the_metadata_services_address_is_a_setting() {
        let at = |pairs: &[(&str, &str)]| ManagedEndpoint::from_vars(&lookup(pairs)).url().to_owned();
        assert_eq!(at(&[]), IMDS);
        assert_eq!(at(&[("AZURE_POD_IDENTITY_AUTHORITY_HOST", "http://127.0.0.1:9")]), "http://127.0.0.1:9");
        assert_eq!(at(&[("IMDS_ENDPOINT", "http://127.0.0.1:8")]), "http://127.0.0.1:8");
    }

    #[test]
    fn limit_2_stray_variables_of_other_services_do_not_keep_us_from_the_metadata_service() {
        for stray in [
            vec![("MSI_ENDPOINT", "http://x"), ("MSI_SECRET", "s")],
            vec![("IDENTITY_ENDPOINT", "http://localhost:1/arc")],
            vec![("IDENTITY_HEADER", "h")],
            vec![
                ("IDENTITY_ENDPOINT", "http://f"),
                ("IDENTITY_HEADER", "h"),
                ("IDENTITY_SERVER_THUMBPRINT", "t"),
            ],
        ] {
            assert_eq!(ManagedEndpoint::from_vars(&lookup(&stray)).url(), IMDS, "{stray:?}");
        }
        let both = [("IDENTITY_ENDPOINT", "http://localhost:1/msi/token"), ("IDENTITY_HEADER", "h")];
        assert!(matches!(ManagedEndpoint::from_vars(&lookup(&both)), ManagedEndpoint::AppService { .. }));
    }
}
