//! Temporary: takes the object that was built by hand.
fn main() {
    let out = std::path::PathBuf::from(std::env::var_os("OUT_DIR").unwrap());
    let object = "/work/main/target/bpf/bpfel-unknown-none/release/geophone-ebpf";
    println!("cargo::rerun-if-changed={object}");
    std::fs::copy(object, out.join("geophone.bpf.o")).unwrap();
}
