//! The connection to the API server: kube finds address and credentials, the rest is ours, so that there is TLS 1.3,
//! one crypto provider named explicitly, and no second stack.

mod roots;
mod tls;

use std::path::Path;
use std::time::Duration;

use hyper_rustls::{FixedServerNameResolver, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use keyward_core::{Code, Error, Result};
use kube::Config;
use kube::client::{Body, ClientBuilder, ConfigExt as _};
use kube::config::{KubeConfigOptions, Kubeconfig};
use tower::util::{ServiceExt as _, option_layer};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How long a connection may take to open.
const CONNECT: Duration = Duration::from_secs(5);

/// A connection without traffic is asked whether it is alive: a watch may be silent for minutes.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// Stands for the proxy of a cluster that has none; nothing connects to it (RFC 2606).
const NO_PROXY: &str = "none.invalid";

/// Connections kept for later, beside the two that watch.
const SPARE: usize = 2;

/// A client for the cluster of `kubeconfig`, or for the one that we run in.
pub(crate) async fn connect(kubeconfig: Option<&Path>) -> Result<kube::Client> {
    let config = match kubeconfig {
        Some(path) => from_file(path).await?,
        None => Config::incluster().map_err(|e| {
            invalid("this is not a pod with a service account; set KUBECONFIG or mount the account's token")
                .detail(e)
        })?,
    };
    client(&config)
}

async fn from_file(path: &Path) -> Result<Config> {
    let mut file =
        Kubeconfig::read_from(path).map_err(|e| invalid("the kubeconfig cannot be read").detail(e))?;
    // Where a cluster names no proxy, kube would take that of HTTPS_PROXY, which is for vaults.
    for cluster in file.clusters.iter_mut().filter_map(|named| named.cluster.as_mut()) {
        if cluster.proxy_url.as_deref().is_none_or(str::is_empty) {
            cluster.proxy_url = Some(NO_PROXY.to_owned());
        }
    }
    let mut config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
        .await
        .map_err(|e| invalid("the kubeconfig cannot be used").detail(e))?;
    config.proxy_url.take_if(|proxy| proxy.host() == Some(NO_PROXY));
    Ok(config)
}

fn client(config: &Config) -> Result<kube::Client> {
    refuse_what_is_not_safe(config)?;
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_connect_timeout(Some(CONNECT));
    http.set_keepalive(Some(KEEPALIVE));
    http.set_nodelay(true);
    let mut https = HttpsConnectorBuilder::new().with_tls_config(tls::config(config)?).https_or_http();
    if let Some(name) = &config.tls_server_name {
        let name = name.clone().try_into().map_err(|_| invalid("tls-server-name is not a server's name"))?;
        https = https.with_server_name_resolver(FixedServerNameResolver::new(name));
    }
    let http: HttpClient<_, Body> = HttpClient::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(Duration::from_secs(60))
        .pool_max_idle_per_host(SPARE)
        .build(https.enable_http1().wrap_connector(http));
    let unusable = |e: kube::Error| invalid("the credentials for the cluster cannot be used").detail(e);
    let http = http.map_err(BoxError::from);
    Ok(ClientBuilder::new(http, config.default_namespace.clone())
        .with_layer(&config.base_uri_layer())
        .with_layer(&option_layer(config.auth_layer().map_err(unusable)?))
        .with_layer(&config.extra_headers_layer().map_err(unusable)?)
        .build())
}

fn refuse_what_is_not_safe(config: &Config) -> Result<()> {
    if config.accept_invalid_certs {
        return Err(invalid("insecure-skip-tls-verify is refused; name the cluster's CA instead"));
    }
    if config.proxy_url.is_some() {
        return Err(invalid("a proxy to the Kubernetes API is not supported"));
    }
    if config.auth_info.exec.is_some() || config.auth_info.auth_provider.is_some() {
        return Err(invalid("credentials that another program makes are not supported; use a token file"));
    }
    let host = config.cluster_url.host().unwrap_or_default().trim_matches(['[', ']']);
    let loopback = host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    if config.cluster_url.scheme_str() != Some("https") && !loopback {
        return Err(invalid("the cluster's address is not https"));
    }
    Ok(())
}

fn invalid(what: &str) -> Error {
    Error::new(Code::ConfigInvalid, what)
}
