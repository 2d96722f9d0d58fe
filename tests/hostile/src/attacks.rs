//! The attackers. Each prepares once and then presses whenever it is its turn.

mod classes;
mod conversions;
mod injector;
mod local_api;
mod memory;
mod upstream;

use std::pin::Pin;
use std::sync::Arc;

use keyward_test_support::kubelet::PodVolume;

use crate::Outcome;
use crate::injector::Webhook;
use crate::node::{Field, Hostile};
use crate::turns::Turns;

/// What an attacker does: prepares, calls [`Turns::each`], and does not come back before the end.
pub(crate) type Work = Pin<Box<dyn Future<Output = Outcome<()>>>>;

/// An attacker of the node plugin.
pub(crate) struct NodeAttack {
    pub(crate) name: &'static str,
    /// What it does, for the table.
    pub(crate) what: &'static str,
    /// The plugin's name server never answers.
    pub(crate) silent_dns: bool,
    /// All that it has is one volume that is refused, so that what it costs at its peak is bounded too.
    pub(crate) one_refused: bool,
    pub(crate) work: fn(Field, Hostile, Arc<Turns>) -> Work,
}

/// An attacker of the injector.
pub(crate) struct InjectorAttack {
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    pub(crate) work: fn(Webhook, Arc<Turns>) -> Work,
}

macro_rules! node {
    ($($name:literal $(+ $mark:ident)?: $what:literal => $work:path;)+) => {
        /// Attackers of the node plugin, in the order in which they run.
        pub(crate) const NODE: &[NodeAttack] = &[$(NodeAttack {
            name: $name,
            what: $what,
            silent_dns: node!(@dns $($mark)?),
            one_refused: node!(@refused $($mark)?),
            work: |field, hostile, turns| Box::pin($work(field, hostile, turns)),
        }),+];
    };
    (@dns silent_dns) => { true };
    (@refused one_refused) => { true };
    (@$question:ident $($other:ident)?) => { false };
}

macro_rules! injector {
    ($($name:literal: $what:literal => $work:path;)+) => {
        /// Attackers of the injector, in the order in which they run.
        pub(crate) const INJECTOR: &[InjectorAttack] = &[$(InjectorAttack {
            name: $name,
            what: $what,
            work: |webhook, turns| Box::pin($work(webhook, turns)),
        }),+];
    };
}

node! {
    "old-versions": "eight loops of GetSecret for an old version that is a costly key store" => conversions::old_versions;
    "refreshes": "RefreshSecret without pause by 32 users, of an object whose newest version is a costly key store" => conversions::refreshes;
    "costly-retry" + one_refused: "one volume with a costly key store, published again without pause" => conversions::retry;
    "costly-crowd": "sixteen such pods at once" => conversions::crowd;
    "costly-aliases" + one_refused: "900 aliases of one costly key store, published again without pause" => conversions::aliases;
    "costly-rotation": "a running volume of 16 objects that turn into costly key stores every 200 ms" => conversions::rotation;
    "hundred-stores": "a running volume of 200 key stores to write, new versions of all every 500 ms" => conversions::hundred_stores;
    "templates" + one_refused: "700 templates of 1 MB in one volume, published again without pause" => memory::templates;
    "largest-refused" + one_refused: "980 values of 25 KB and 20 templates of 1 MB in one volume, published again without pause" => memory::largest_refused;
    "growing-templates": "700 small templates whose source grows to 25 KB while the volume runs" => memory::growing_templates;
    "payloads": "twenty volumes of 28 MB in one pod" => memory::payloads;
    "moving-payload": "four running volumes of 28 MB in one pod, all of it rewritten every 300 ms" => memory::moving_payload;
    "pinned-versions": "three pods with 900 pinned versions of 25 KB each" => memory::pinned_versions;
    "huge-answers": "eight pods whose vault answers 200 MiB to each of 64 reads" => memory::huge_answers;
    "unread-answers": "two connections with a window of 0 and 200 BatchGetSecrets of 2.4 MB each, again and again" => local_api::unread_answers;
    "unread-watches": "200 watches with a window of 0 over 96 objects of 25 KB that rotate" => local_api::unread_watches;
    "connections": "4,000 connections to keyward.sock that say nothing" => local_api::connections;
    "half-frames": "512 connections that stop in the middle of a header" => local_api::half_frames;
    "streams": "32 connections with 200 open watches each" => local_api::streams;
    "lookups": "lookups without pause by 32 users" => local_api::lookups;
    "batches": "BatchGetSecrets of 2.4 MB without pause on eight connections" => local_api::batches;
    "big-requests": "requests of 4 MB with headers of 8 KB without pause" => local_api::big_requests;
    "resets": "streams that are reset as soon as they are opened" => local_api::resets;
    "lists": "ListSecrets of 1,000 objects without pause" => local_api::lists;
    "many-users": "1,000 users who read 96 objects each" => local_api::many_users;
    "unknown-names": "1,000 users who ask for names that are not there" => local_api::unknown_names;
    "hosts" + silent_dns: "a volume of 1,000 hosts, and a name server that never answers" => upstream::hosts;
    "slow-vault": "60 pods of 50 objects whose vault never answers" => upstream::slow_vault;
    "throttling-vault": "16 pods whose vault answers 429, published again without pause" => upstream::throttling_vault;
    "unknown-clients": "publishes with client ids that Entra does not know, without pause" => upstream::unknown_clients;
    "come-and-go": "sixteen pods that come and go without pause" => upstream::come_and_go;
    "volumes": "600 volumes of one pod" => upstream::volumes;
    "fields": "publishes with every field at its limit, without pause" => upstream::fields;
    "class-edits": "a class under 20 running volumes, edited every 2 ms" => classes::edits;
    "class-bombs": "64 classes of 1 MB with a volume each, edited in turn" => classes::bombs;
    "histories": "a class of ten objects with 500 older versions each" => classes::histories;
    "failing-edits": "edits of a class that fail and are told as events, under 20 volumes" => classes::failing_edits;
}

injector! {
    "non-ascii-name": "a container whose name is not ASCII" => injector::non_ascii_name;
    "many-variables": "pods with 80,000 env entries, 2.7 MB, four at a time" => injector::many_variables;
    "label-bombs": "pods with 2.7 MB of labels and annotations, four at a time" => injector::label_bombs;
    "deep-pods": "pods of 2.7 MB of nested and escaped JSON, four at a time" => injector::deep_pods;
    "silent-tls": "512 TLS connections that say nothing" => injector::silent_tls;
    "silent-tcp": "1,000 connections that do not even begin with TLS" => injector::silent_tcp;
    "idle-admin": "64 idle connections to the admin port" => injector::idle_admin;
    "slow-bodies": "64 strangers who send 3 MB a byte at a time" => injector::slow_bodies;
    "strangers": "reviews from the pod network without pause" => injector::strangers;
    "handshakes": "TLS handshakes without pause" => injector::handshakes;
    "unread-reviews": "strangers' and pods' reviews whose answers are not read" => injector::unread_reviews;
}

/// What a refusal says.
#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn words(status: tonic::Status) -> String {
    status.message().to_owned()
}

/// Publishes once, and notes what the answer was.
async fn publish(field: &Field, hostile: &Hostile, volume: &PodVolume, turns: &Turns) {
    turns.answered(field.publish(hostile, volume).await.map_err(words));
}

/// Publishes and unpublishes without pause whenever it is the attacker's turn.
async fn publish_again(field: &Field, hostile: &Hostile, volume: &PodVolume, turns: &Turns) {
    let once = || async {
        publish(field, hostile, volume, turns).await;
        field.unpublish(volume).await;
    };
    turns.each(once).await;
}
