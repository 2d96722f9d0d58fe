//! Text of any kind in the calls of kubelet's socket: each is answered in words that may be shown, and ends nothing.

use std::time::Duration;

use keyward_proto::csi::v1::{
    NodeGetVolumeStatsRequest, NodePublishVolumeRequest, NodeUnpublishVolumeRequest,
};
use keyward_test_support::node::{DRIVER, Node};
use keyward_test_support::{any_text, is_tidy};
use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::TestRunner;
use tonic::{Code, Request, Status};

use crate::BINARY;

/// How long a publish may wait for a class that does not exist.
const PATIENCE: Duration = Duration::from_millis(300);

#[tokio::test(flavor = "multi_thread")]
async fn any_text_in_a_call_is_answered_and_the_next_pod_is_published() {
    let Some(node) = Node::start(BINARY).await else { return };
    node.vault().set_secret("a", "1");
    let driver = node.drive().await;
    let broker = driver.broker();
    let volume = node.volume("web-0", &["a"]);
    let usual = node.kubelet.request(&volume, &node.context(&volume.pod));
    let attributes: Vec<String> = usual.volume_context.keys().cloned().collect();
    let more = ["secretProviderClass", "cloud", "grpc", "clientID", "tenantID"].map(str::to_owned);
    let attributes: Vec<String> = attributes.into_iter().chain(more).collect();
    let mut runner = TestRunner::deterministic();
    let mut text = || any_text().new_tree(&mut runner).unwrap().current();
    let mut client = node.kubelet.node(DRIVER).await.unwrap();
    let mut refused = 0;
    for round in 0..120 {
        let mut request: NodePublishVolumeRequest = usual.clone();
        match round % 6 {
            0 => request.target_path = text(),
            1 => request.volume_id = text(),
            2 => drop(request.volume_context.insert(text(), text())),
            3 => drop(request.secrets.insert(text(), text())),
            _ => drop(request.volume_context.insert(attributes[round % attributes.len()].clone(), text())),
        }
        let mut request = Request::new(request);
        request.set_timeout(PATIENCE);
        let answers: [Result<(), Status>; 3] = [
            client.node_publish_volume(request).await.map(drop),
            client
                .node_get_volume_stats(NodeGetVolumeStatsRequest {
                    volume_id: text(),
                    volume_path: text(),
                    ..NodeGetVolumeStatsRequest::default()
                })
                .await
                .map(drop),
            client
                .node_unpublish_volume(NodeUnpublishVolumeRequest {
                    volume_id: if round % 2 == 0 { usual.volume_id.clone() } else { text() },
                    target_path: if round % 2 == 0 { usual.target_path.clone() } else { text() },
                })
                .await
                .map(drop),
        ];
        for status in answers.into_iter().filter_map(Result::err) {
            assert!(!matches!(status.code(), Code::Unknown | Code::Internal), "{round}: {status:?}");
            assert!(is_tidy(status.message()), "{round}: {:?}", status.message());
            refused += 1;
        }
    }
    assert!(refused > 200, "only {refused} calls were refused");
    assert_eq!(driver.broker(), broker, "the broker is the one that it was");
    node.publish(&node.volume("web-1", &["a"])).await.unwrap();
}
