use std::collections::HashMap;
use std::sync::Arc;

use keyward_proto::csi::v1::identity_server::Identity;
use keyward_proto::csi::v1::{
    GetPluginCapabilitiesRequest, GetPluginCapabilitiesResponse, GetPluginInfoRequest, GetPluginInfoResponse,
    ProbeRequest, ProbeResponse,
};
use tonic::{Request, Response, Status};

use crate::node::Node;

/// Who the plugin is. It has no controller: inline volumes need none.
pub(crate) struct IdentityService(pub(crate) Arc<Node>);

#[tonic::async_trait]
impl Identity for IdentityService {
    async fn get_plugin_info(
        &self,
        _: Request<GetPluginInfoRequest>,
    ) -> Result<Response<GetPluginInfoResponse>, Status> {
        Ok(Response::new(GetPluginInfoResponse {
            name: self.0.settings.driver_name.clone(),
            vendor_version: env!("CARGO_PKG_VERSION").to_owned(),
            manifest: HashMap::new(),
        }))
    }

    async fn get_plugin_capabilities(
        &self,
        _: Request<GetPluginCapabilitiesRequest>,
    ) -> Result<Response<GetPluginCapabilitiesResponse>, Status> {
        Ok(Response::new(GetPluginCapabilitiesResponse { capabilities: Vec::new() }))
    }

    /// Alive means that the mounter answers; a vault that is away is no reason to be restarted.
    async fn probe(&self, _: Request<ProbeRequest>) -> Result<Response<ProbeResponse>, Status> {
        let alive = self.0.is_alive().await;
        alive.map_err(|error| Status::failed_precondition(super::text(&error)))?;
        Ok(Response::new(ProbeResponse { ready: Some(self.0.is_ready()) }))
    }
}
