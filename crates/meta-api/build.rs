//! Compiles proto/meta.proto without a system protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["../../proto/meta.proto", "../../proto/meta_state.proto"];
    for file in files {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(files, ["../../proto"])?;
    tonic_prost_build::configure()
        .bytes(".")
        .compile_fds(descriptors)?;
    Ok(())
}
