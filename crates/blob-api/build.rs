//! Compiles proto/blob.proto without a system protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file = "../../proto/blob.proto";
    println!("cargo:rerun-if-changed={file}");
    let descriptors = protox::compile([file], ["../../proto"])?;
    tonic_prost_build::configure()
        .bytes(".")
        .compile_fds(descriptors)?;
    Ok(())
}
