//! Sections about this machine: files, local API, rotation, audit, logs, traces.

use std::time::Duration;

use super::path::{absolute, check_absolute, check_path};
use crate::address;
use crate::config::{Audit, Files, Grpc, Log, Rotation, Tmpfs, Traces};
use crate::document::{Fields, Mistakes};
use crate::spec::parse_mode;

pub(in crate::config) fn files(mut fields: Fields<'_>) -> Option<Files> {
    let path = absolute(&mut fields, "path");
    if fields.value("path").is_none() {
        fields.mistake("path", "is missing");
    }
    let tmpfs = fields
        .choice("tmpfs", &[("auto", Tmpfs::Auto), ("mount", Tmpfs::Mount), ("require", Tmpfs::Require)])
        .unwrap_or_default();
    let size = fields.number("size", 4096..=1 << 34);
    let mode = fields.parsed("mode", parse_mode);
    let uid = fields.number("uid", 0..=u64::from(u32::MAX - 1)).map(|id| id as u32);
    let gid = fields.number("gid", 0..=u64::from(u32::MAX - 1)).map(|id| id as u32);
    let allow_swap = fields.flag("allowSwap").unwrap_or_default();
    fields.finish();
    let mode = mode.unwrap_or(if gid.is_some() { 0o440 } else { 0o444 });
    Some(Files { path: path?, tmpfs, size, mode, uid, gid, allow_swap })
}

pub(in crate::config) fn grpc(mut fields: Fields<'_>, mistakes: &Mistakes) -> Option<Grpc> {
    let socket = absolute(&mut fields, "socket");
    if fields.value("socket").is_none() {
        fields.mistake("socket", "is missing");
    }
    let allow_uids = uids(&mut fields, mistakes);
    let mode = fields.parsed("mode", parse_mode);
    let gid = fields.number("gid", 0..=u64::from(u32::MAX - 1)).map(|id| id as u32);
    let rate_per_caller = fields.number("ratePerCaller", 1..=10_000_000).unwrap_or(200_000) as u32;
    fields.finish();
    let mode = mode.unwrap_or(if gid.is_some() { 0o660 } else { 0o666 });
    Some(Grpc { socket: socket?, allow_uids, mode, gid, rate_per_caller })
}

pub(in crate::config) fn uids(fields: &mut Fields<'_>, mistakes: &Mistakes) -> Vec<u32> {
    let mut allow_uids = Vec::new();
    for (index, item) in fields.list("allowUids").iter().enumerate() {
        match item.as_u64().and_then(|uid| u32::try_from(uid).ok()) {
            Some(uid) => allow_uids.push(uid),
            None => {
                mistakes
                    .note(fields.path(&format!("allowUids[{index}]")), "must be a user id, a whole number");
            }
        }
    }
    allow_uids
}

pub(in crate::config) fn rotation(fields: Option<Fields<'_>>) -> Rotation {
    let mut rotation = Rotation {
        interval: Duration::from_secs(60),
        jitter: 0.1,
        max_stale: Duration::from_secs(24 * 3600),
    };
    let Some(mut fields) = fields else { return rotation };
    let days = |days: u64| Duration::from_secs(days.saturating_mul(86_400));
    rotation.interval =
        fields.duration("interval", Duration::from_secs(1)..=days(30)).unwrap_or(rotation.interval);
    rotation.jitter = fields.fraction("jitter", 0.0..=1.0).unwrap_or(rotation.jitter);
    rotation.max_stale =
        fields.duration("maxStale", Duration::from_secs(1)..=days(365)).unwrap_or(rotation.max_stale);
    if rotation.max_stale < rotation.interval {
        fields.mistake("maxStale", "must not be shorter than rotation.interval");
    }
    fields.finish();
    rotation
}

pub(in crate::config) fn audit(fields: Option<Fields<'_>>) -> Audit {
    let mut audit = Audit { file: None, fsync: false, deny_on_failure: false, key_file: None };
    let Some(mut fields) = fields else { return audit };
    audit.file = fields
        .parsed("file", |text| match text {
            "-" => Ok(None),
            path => check_absolute(path).map(Some),
        })
        .flatten();
    audit.fsync = fields.flag("fsync").unwrap_or_default();
    audit.deny_on_failure =
        fields.choice("onFailure", &[("allow", false), ("deny", true)]).unwrap_or_default();
    audit.key_file = fields.parsed("keyFile", check_path);
    fields.finish();
    audit
}

pub(in crate::config) fn log(fields: Option<Fields<'_>>) -> Log {
    let mut log = Log { json: true, level: "info" };
    let Some(mut fields) = fields else { return log };
    log.json = fields.choice("format", &[("json", true), ("text", false)]).unwrap_or(log.json);
    let levels = ["error", "warn", "info", "debug", "trace"].map(|level| (level, level));
    log.level = fields.choice("level", &levels).unwrap_or(log.level);
    fields.finish();
    log
}

pub(in crate::config) fn traces(mut fields: Fields<'_>) -> Option<Traces> {
    if fields.value("endpoint").is_none() {
        fields.mistake("endpoint", "is missing");
    }
    let endpoint = fields.parsed("endpoint", |text| {
        let url = address::parse(text)?;
        if matches!(url.scheme(), "http" | "https") && url.host().is_some() {
            Ok(text.to_owned())
        } else {
            Err("must be an http or https URL".to_owned())
        }
    });
    let sample = fields.fraction("sample", 0.0..=1.0).unwrap_or(1.0);
    fields.finish();
    Some(Traces { endpoint: endpoint?, sample_per_mille: (sample * 1000.0).round() as u32 })
}
