//! Clouds: where tokens come from, where vaults live, and which audience a vault's token names.

/// One Azure cloud, built in or defined by an administrator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cloud {
    /// `AzurePublicCloud`, `AzureUSGovernmentCloud`, `AzureChinaCloud`, or a custom name.
    pub name: String,
    /// Origin of the token endpoint, no trailing slash: `https://login.microsoftonline.com`.
    pub authority_host: String,
    /// DNS suffix of vaults, no leading dot: `vault.azure.net`.
    pub vault_dns_suffix: String,
    /// Audience of a vault token, no trailing slash: `https://vault.azure.net`.
    pub audience: String,
}

impl Cloud {
    /// The public cloud.
    #[must_use]
    pub fn public() -> Self {
        Self::of("AzurePublicCloud", "https://login.microsoftonline.com", "vault.azure.net")
    }

    /// A built-in cloud by its name, or `None`.
    /// Source: the authority and suffix tables of Key Vault's and Entra's documentation.
    #[must_use]
    pub fn built_in(name: &str) -> Option<Self> {
        let (authority_host, vault_dns_suffix) = match name {
            "AzurePublicCloud" => return Some(Self::public()),
            "AzureUSGovernmentCloud" => ("https://login.microsoftonline.us", "vault.usgovcloudapi.net"),
            "AzureChinaCloud" => ("https://login.chinacloudapi.cn", "vault.azure.cn"),
            _ => return None,
        };
        Some(Self::of(name, authority_host, vault_dns_suffix))
    }

    fn of(name: &str, authority_host: &str, vault_dns_suffix: &str) -> Self {
        Self {
            name: name.to_owned(),
            authority_host: authority_host.to_owned(),
            vault_dns_suffix: vault_dns_suffix.to_owned(),
            audience: format!("https://{vault_dns_suffix}"),
        }
    }

    /// The names that [`Self::built_in`] knows.
    pub const BUILT_IN: [&'static str; 3] = ["AzurePublicCloud", "AzureUSGovernmentCloud", "AzureChinaCloud"];

    /// Whether `host` (without a port) ends in this cloud's suffix, at a label boundary.
    #[must_use]
    pub fn owns(&self, host: &str) -> bool {
        let host = host.to_ascii_lowercase();
        host.strip_suffix(&self.vault_dns_suffix)
            .and_then(|rest| rest.strip_suffix('.'))
            .is_some_and(|name| !name.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vault_host_belongs_to_a_cloud_only_at_a_label_boundary() {
        let cloud = Cloud::public();
        assert!(cloud.owns("shop.vault.azure.net") && cloud.owns("SHOP.Vault.Azure.Net"));
        assert!(!cloud.owns("evilvault.azure.net") && !cloud.owns("vault.azure.net"));
        assert!(!cloud.owns(".vault.azure.net") || cloud.owns("a.vault.azure.net"));
        assert!(!cloud.owns("shop.vault.azure.net.evil.example"));
    }
}
