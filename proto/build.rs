//! Compiles the contracts with protox, so that no system `protoc` is needed.

use std::path::PathBuf;

use prost::Message;

const FILE: &str = "keyward/secrets/v1/secrets.proto";

/// Messages that hold a value get no `Debug`.
const HOLD_VALUES: [&str; 6] = [
    "keyward.secrets.v1.Secret",
    "keyward.secrets.v1.GetSecretResponse",
    "keyward.secrets.v1.BatchGetSecretsResponse",
    "keyward.secrets.v1.WatchSecretsResponse",
    "keyward.secrets.v1.WatchSecretsResponse.event",
    "keyward.secrets.v1.RefreshSecretResponse",
];

/// What kubelet speaks, with our names for nothing.
const PEERS: [&str; 2] = ["csi/v1/csi.proto", "pluginregistration/registration.proto"];

/// Tokens and client secrets travel in these.
const HOLD_CREDENTIALS: [&str; 1] = ["csi.v1.NodePublishVolumeRequest"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    println!("cargo::rerun-if-changed=peers");
    let out = PathBuf::from(std::env::var("OUT_DIR")?);

    // Reflection needs names and types only; the comments stay in the generated code.
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).include_source_info(false).open_file(FILE)?;
    std::fs::write(out.join("descriptors.bin"), compiler.file_descriptor_set().encode_to_vec())?;

    // No server is generated: crates/local-api answers on the HTTP/2 layer itself, for speed and to wipe its buffers.
    tonic_prost_build::configure()
        .build_server(false)
        .bytes(".")
        .skip_debug(HOLD_VALUES)
        .compile_fds(protox::compile([FILE], ["proto"])?)?;

    // Kubelet's side is generated too: what tests the node plugin calls it as kubelet does.
    tonic_prost_build::configure()
        .skip_debug(HOLD_CREDENTIALS)
        .compile_fds(protox::compile(PEERS, ["peers"])?)?;
    Ok(())
}
