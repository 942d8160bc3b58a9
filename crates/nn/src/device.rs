//! Picks a device without panicking: cudarc panics when a library is missing, so the driver is
//! probed first.

use candle_core::{Device, Result};

/// Why CUDA cannot be used in this process, or the number of devices.
#[cfg(feature = "cuda")]
pub fn probe_cuda() -> std::result::Result<i32, String> {
    use libloading::{Library, Symbol};
    let why = |e: libloading::Error| {
        std::error::Error::source(&e).map_or_else(|| e.to_string(), ToString::to_string)
    };
    // SAFETY: these are the CUDA driver's documented entry points with their documented types; the
    // libraries are leaked on purpose, so that cudarc's own dlopen finds them.
    unsafe {
        let driver =
            Library::new("libcuda.so.1").map_err(|e| format!("no CUDA driver: {}", why(e)))?;
        let init: Symbol<'_, unsafe extern "C" fn(u32) -> i32> =
            driver.get(b"cuInit\0").map_err(why)?;
        let status = init(0);
        if status != 0 {
            return Err(format!("no usable CUDA driver: cuInit returned {status}"));
        }
        let count: Symbol<'_, unsafe extern "C" fn(*mut i32) -> i32> =
            driver.get(b"cuDeviceGetCount\0").map_err(why)?;
        let mut devices = 0;
        if count(&mut devices) != 0 || devices == 0 {
            return Err("the CUDA driver sees no device".to_owned());
        }
        for name in ["libcublasLt.so.13", "libcublas.so.13", "libcurand.so.10"] {
            let library =
                Library::new(name).map_err(|e| format!("CUDA library missing: {}", why(e)))?;
            std::mem::forget(library);
        }
        std::mem::forget(driver);
        Ok(devices)
    }
}

/// Why CUDA cannot be used in this process.
#[cfg(not(feature = "cuda"))]
pub fn probe_cuda() -> std::result::Result<i32, String> {
    Err("this build has no CUDA support (feature `cuda`)".to_owned())
}

/// `auto`, `cpu`, `cuda` or `cuda:N`.
pub fn select(name: &str) -> Result<Device> {
    let cuda = |ordinal| match probe_cuda() {
        Ok(_) => Device::new_cuda(ordinal),
        Err(why) => candle_core::bail!("device {name:?}: {why}"),
    };
    match name {
        "cpu" => Ok(Device::Cpu),
        "auto" if probe_cuda().is_err() => Ok(Device::Cpu),
        "auto" | "cuda" => cuda(0),
        other => match other.strip_prefix("cuda:").and_then(|n| n.parse().ok()) {
            Some(ordinal) => cuda(ordinal),
            None => candle_core::bail!("device {other:?}: expected auto, cpu, cuda or cuda:N"),
        },
    }
}

/// Bytes that are taken of a GPU's memory, by whomever, and all that it has; none on a CPU.
#[cfg(feature = "cuda")]
pub fn memory_used(device: &Device) -> Option<(u64, u64)> {
    if !device.is_cuda() {
        return None;
    }
    let (free, total) = candle_core::cuda_backend::cudarc::driver::result::mem_get_info().ok()?;
    Some(((total - free) as u64, total as u64))
}

/// Bytes that are taken of a GPU's memory, by whomever, and all that it has; none on a CPU.
#[cfg(not(feature = "cuda"))]
pub fn memory_used(_device: &Device) -> Option<(u64, u64)> {
    None
}

#[cfg(test)]
mod tests {
    #[test]
    fn names() {
        assert!(super::select("cpu").is_ok_and(|d| d.is_cpu()));
        assert!(super::select("tpu").is_err());
    }
}
