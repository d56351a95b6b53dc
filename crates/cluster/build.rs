//! Compiles proto/cluster.proto without a system protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for file in ["../../proto/cluster.proto", "../../proto/meta_state.proto"] {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(["../../proto/cluster.proto"], ["../../proto"])?;
    tonic_prost_build::configure()
        .bytes(".")
        .extern_path(".granary.meta.state", "::granary_meta_api::pb::state")
        .compile_fds(descriptors)?;
    Ok(())
}
