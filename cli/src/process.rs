//! What the system says of this process.

/// The most bytes of memory that this process has had at once; `None` where the system does not tell (only Linux does).
pub(crate) fn peak_bytes() -> Option<u64> {
    read_peak(&std::fs::read_to_string("/proc/self/status").ok()?)
}

fn read_peak(status: &str) -> Option<u64> {
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::read_peak;

    #[test]
    fn the_peak_is_in_kib() {
        assert_eq!(read_peak("Name:\tx\nVmHWM:\t   1208 kB\nVmRSS:\t 9 kB\n"), Some(1208 << 10));
        assert_eq!(read_peak("Name:\tx\n"), None);
    }
}
