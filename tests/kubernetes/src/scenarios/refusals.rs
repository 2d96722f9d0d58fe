use keyward_emulator::{FederatedCredential, Permission, TOKEN_EXCHANGE_AUDIENCE};

use crate::azure::{ISSUER, VAULT};
use crate::manifest::{FILES, pod, volume};
use crate::wait::{ensure, until};
use crate::{Outcome, World};

/// Waits until the pod's events name this code and word.
fn told(world: &World, namespace: &str, pod: &str, words: &[&str]) -> Outcome {
    until(60, "told", || {
        let events = world.cluster.events(namespace, pod)?;
        let missing = words.iter().find(|word| !events.contains(**word));
        ensure(missing.is_none(), || format!("the events of {pod} lack {}: {events}", missing.unwrap_or(&"")))
    })
}

pub(super) fn each(world: &World) -> Outcome {
    let (cluster, azure) = (&world.cluster, &world.azure);
    let accounts = ["wrong", "unfederated", "forbidden", "missing", "optional"];
    cluster.namespace("refusals", &accounts)?;
    azure.vault().set_secret("here", "value");
    let reader = |account: &str| azure.reader("refusals", account).client_id;
    let nobody = "99999999-9999-9999-9999-999999999999";
    let registration = keyward_emulator::Registration::application();
    let unfederated = azure.emulator.identities().register(registration);
    azure.vault().assign(&unfederated, [Permission::SECRETS_GET]);
    let forbidden = azure.stranger("refusals", "forbidden");
    let here = format!("- {VAULT}/here\n");
    let absent = format!("- {VAULT}/here\n- {VAULT}/absent\n");
    let optional = format!("- {VAULT}/here\n- from: {VAULT}/never\n  optional: true\n");
    let make = |account: &str, id: &str, objects: &str| {
        pod("refusals", account, account, volume(azure, id, objects))
    };
    cluster.apply(&[
        make("wrong", nobody, &here),
        make("unfederated", &unfederated.client_id, &here),
        make("forbidden", &forbidden.client_id, &here),
        make("missing", &reader("missing"), &absent),
        make("optional", &reader("optional"), &optional),
    ])?;
    cluster.ready("refusals", "optional", 60)?;
    told(world, "refusals", "wrong", &["KW_TOKEN_REFUSED", "AADSTS700016", nobody])?;
    told(world, "refusals", "unfederated", &["KW_TOKEN_REFUSED", "AADSTS70", &unfederated.client_id])?;
    told(world, "refusals", "forbidden", &["KW_VAULT_FORBIDDEN", "here"])?;
    told(world, "refusals", "missing", &["KW_OBJECT_NOT_FOUND", "absent"])?;

    // Each cause is removed, and nobody touches the pod.
    let credential = FederatedCredential {
        issuer: ISSUER.to_owned(),
        subject: "system:serviceaccount:refusals:unfederated".to_owned(),
        audience: TOKEN_EXCHANGE_AUDIENCE.to_owned(),
    };
    azure.emulator.identities().add_federated(&unfederated.client_id, credential);
    azure.vault().assign(&forbidden, [Permission::SECRETS_GET, Permission::SECRETS_LIST]);
    azure.vault().set_secret("absent", "value");
    for pod in ["unfederated", "forbidden", "missing"] {
        cluster.ready("refusals", pod, 150)?;
        let read = cluster.exec("refusals", pod, "app", &["cat", &format!("{FILES}/here")])?;
        ensure(read == "value", || format!("{pod} reads something else"))?;
    }
    cluster.end("refusals")
}

pub(super) fn unreachable(world: &World) -> Outcome {
    let (cluster, azure) = (&world.cluster, &world.azure);
    cluster.namespace("unreachable", &["web"])?;
    azure.vault().set_secret("unseen", "value");
    let identity = azure.reader("unreachable", "web");
    azure.down();
    let objects = format!("- {VAULT}/unseen\n");
    cluster.apply(&[pod("unreachable", "web", "web", volume(azure, &identity.client_id, &objects))])?;
    told(world, "unreachable", "web", &["KW_TOKEN_UNAVAILABLE"])?;
    azure.heal();
    cluster.ready("unreachable", "web", 150)?;
    cluster.end("unreachable")
}
