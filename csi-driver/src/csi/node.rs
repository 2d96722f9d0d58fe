use std::sync::Arc;
use std::time::Duration;

use keyward_core::{Error, Result};
use keyward_proto::csi::v1::node_server::Node as NodeRpc;
use keyward_proto::csi::v1::node_service_capability::{self, Rpc, rpc};
use keyward_proto::csi::v1::volume_health::VolumeHealthEntry;
use keyward_proto::csi::v1::volume_usage::Unit;
use keyward_proto::csi::v1::{
    NodeExpandVolumeRequest, NodeExpandVolumeResponse, NodeGetCapabilitiesRequest,
    NodeGetCapabilitiesResponse, NodeGetInfoRequest, NodeGetInfoResponse, NodeGetVolumeHealthRequest,
    NodeGetVolumeHealthResponse, NodeGetVolumeStatsRequest, NodeGetVolumeStatsResponse,
    NodePublishVolumeRequest, NodePublishVolumeResponse, NodeServiceCapability, NodeStageVolumeRequest,
    NodeStageVolumeResponse, NodeUnpublishVolumeRequest, NodeUnpublishVolumeResponse,
    NodeUnstageVolumeRequest, NodeUnstageVolumeResponse, VolumeHealth, VolumeHealthErrorType, VolumeUsage,
};
use tonic::{Request, Response, Status};

use super::{cut, status};
use crate::node::{Node, Usage};
use crate::request;

/// Complaints about one volume that kubelet is told at most.
const COMPLAINTS: usize = 64;

/// The Node service, for inline volumes: nothing is staged, nothing grows.
pub(crate) struct NodeService(pub(crate) Arc<Node>);

#[tonic::async_trait]
impl NodeRpc for NodeService {
    async fn node_publish_volume(
        &self,
        request: Request<NodePublishVolumeRequest>,
    ) -> std::result::Result<Response<NodePublishVolumeResponse>, Status> {
        let deadline = deadline(&request);
        let answer = self.0.publish(request.into_inner(), deadline).await;
        respond(answer.map(|()| NodePublishVolumeResponse {}))
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<NodeUnpublishVolumeRequest>,
    ) -> std::result::Result<Response<NodeUnpublishVolumeResponse>, Status> {
        let NodeUnpublishVolumeRequest { volume_id, target_path } = request.into_inner();
        let place = request::place(&self.0.settings.kubelet_dir, &volume_id, &target_path, "target_path");
        let answer = match place {
            Ok(place) => self.0.unpublish(place).await,
            Err(error) => Err(error),
        };
        respond(answer.map(|()| NodeUnpublishVolumeResponse {}))
    }

    async fn node_get_volume_stats(
        &self,
        request: Request<NodeGetVolumeStatsRequest>,
    ) -> std::result::Result<Response<NodeGetVolumeStatsResponse>, Status> {
        let NodeGetVolumeStatsRequest { volume_id, volume_path, .. } = request.into_inner();
        request::required(&[("volume_id", &volume_id), ("volume_path", &volume_path)])
            .map_err(|e| status(&e))?;
        let Usage { bytes, inodes } =
            self.0.usage(&volume_id, &volume_path).map_err(|error| status(&error))?;
        let usage = |unit: Unit, (total, used): (u64, u64)| VolumeUsage {
            total: signed(total),
            used: signed(used),
            available: signed(total.saturating_sub(used)),
            unit: unit.into(),
        };
        Ok(Response::new(NodeGetVolumeStatsResponse {
            usage: vec![usage(Unit::Bytes, bytes), usage(Unit::Inodes, inodes)],
        }))
    }

    /// What of a volume is not as declared: stale, expired, revoked or missing objects.
    async fn node_get_volume_health(
        &self,
        request: Request<NodeGetVolumeHealthRequest>,
    ) -> std::result::Result<Response<NodeGetVolumeHealthResponse>, Status> {
        let NodeGetVolumeHealthRequest { volume_id, volume_publish_path, .. } = request.into_inner();
        request::required(&[("volume_id", &volume_id)]).map_err(|error| status(&error))?;
        let complaints =
            self.0.complaints(&volume_id, &volume_publish_path).map_err(|error| status(&error))?;
        let health_statuses = complaints
            .into_iter()
            .take(COMPLAINTS)
            .map(|(reason, message)| VolumeHealthEntry {
                status: VolumeHealthErrorType::Degraded.into(),
                reason: reason.to_owned(),
                message: cut(&message),
            })
            .collect();
        Ok(Response::new(NodeGetVolumeHealthResponse {
            volume_health: Some(VolumeHealth { volume_id, health_statuses }),
        }))
    }

    async fn node_get_capabilities(
        &self,
        _: Request<NodeGetCapabilitiesRequest>,
    ) -> std::result::Result<Response<NodeGetCapabilitiesResponse>, Status> {
        let capabilities =
            [rpc::Type::GetVolumeStats, rpc::Type::VolumeMountGroup, rpc::Type::GetVolumeHealth]
                .into_iter()
                .map(|rpc| NodeServiceCapability {
                    r#type: Some(node_service_capability::Type::Rpc(Rpc { r#type: rpc.into() })),
                })
                .collect();
        Ok(Response::new(NodeGetCapabilitiesResponse { capabilities }))
    }

    async fn node_get_info(
        &self,
        _: Request<NodeGetInfoRequest>,
    ) -> std::result::Result<Response<NodeGetInfoResponse>, Status> {
        Ok(Response::new(NodeGetInfoResponse {
            node_id: self.0.settings.node_id.clone(),
            max_volumes_per_node: 0,
        }))
    }

    async fn node_stage_volume(
        &self,
        _: Request<NodeStageVolumeRequest>,
    ) -> std::result::Result<Response<NodeStageVolumeResponse>, Status> {
        Err(Status::unimplemented("inline volumes are not staged"))
    }

    async fn node_unstage_volume(
        &self,
        _: Request<NodeUnstageVolumeRequest>,
    ) -> std::result::Result<Response<NodeUnstageVolumeResponse>, Status> {
        Err(Status::unimplemented("inline volumes are not staged"))
    }

    async fn node_expand_volume(
        &self,
        _: Request<NodeExpandVolumeRequest>,
    ) -> std::result::Result<Response<NodeExpandVolumeResponse>, Status> {
        Err(Status::unimplemented("volumes grow by themselves with what they hold"))
    }
}

fn respond<T>(answer: Result<T>) -> std::result::Result<Response<T>, Status> {
    answer.map(Response::new).map_err(|error: Error| status(&error))
}

/// What is left of the caller's patience (`grpc-timeout`, gRPC over HTTP/2, "Requests").
fn deadline<T>(request: &Request<T>) -> Option<Duration> {
    let text = request.metadata().get("grpc-timeout")?.to_str().ok()?;
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: u64 = number.parse().ok().filter(|_| number.len() <= 8)?;
    Some(match unit {
        "H" => Duration::from_secs(number.saturating_mul(3600)),
        "M" => Duration::from_secs(number.saturating_mul(60)),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_callers_deadline_is_read_in_every_unit_and_nonsense_is_none() {
        let of = |text: &str| {
            let mut request = Request::new(());
            request.metadata_mut().insert("grpc-timeout", text.parse().unwrap());
            deadline(&request)
        };
        assert_eq!(of("2M"), Some(Duration::from_secs(120)));
        assert_eq!(of("119999m"), Some(Duration::from_millis(119_999)));
        assert_eq!(of("120000000u"), None, "nine digits");
        for nonsense in ["", "S", "1", "xS", "1q", "-1S"] {
            assert_eq!(of(nonsense), None, "{nonsense}");
        }
        assert_eq!(deadline(&Request::new(())), None);
    }
}
