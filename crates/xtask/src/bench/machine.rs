//! What the figures were measured on.

use super::results::Machine;
use anyhow::{Result, bail};
use fourfold_testkit::{poll, stat};
use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long the machine is watched before anything is started.
const LISTEN_FOR: Duration = Duration::from_secs(2);

pub fn describe() -> Result<Machine> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let value_of = |text: &str, key: &str| {
        let line = text.lines().find(|line| line.starts_with(key)).unwrap_or_default();
        line.split_once(':').map(|(_, value)| value.trim().to_string()).unwrap_or_default()
    };
    let memory_kb: f64 =
        value_of(&read("/proc/meminfo"), "MemTotal").trim_end_matches(" kB").parse().unwrap_or(0.0);
    Ok(Machine {
        cpu: value_of(&read("/proc/cpuinfo"), "model name"),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        memory_gib: (memory_kb / 1024.0 / 1024.0 * 10.0).round() / 10.0,
        kernel: read("/proc/sys/kernel/osrelease").trim().to_string(),
        descriptors_hard: poll::descriptor_limits()?.1,
        local_ports: read("/proc/sys/net/ipv4/ip_local_port_range")
            .split_whitespace()
            .collect::<Vec<_>>()
            .join("-"),
        background: background()?,
    })
}

/// How many ports `net.ipv4.ip_local_port_range` holds.
pub fn local_ports() -> Result<usize> {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")?;
    let mut ends = text.split_whitespace().map(str::parse::<usize>);
    match (ends.next(), ends.next()) {
        (Some(Ok(first)), Some(Ok(last))) if first <= last => Ok(last - first + 1),
        _ => bail!("net.ipv4.ip_local_port_range holds no ports: {text:?}"),
    }
}

/// Watches the idle machine: the only way to know what others do on it is to do nothing for a while.
fn background() -> Result<f64> {
    let before = stat::cpu_ticks()?;
    std::thread::sleep(LISTEN_FOR);
    let window = stat::cpu_ticks()? - before;
    let all = window.busy() + window.idle + window.iowait + window.steal;
    Ok(window.busy() as f64 / all.max(1) as f64)
}

/// The first line that a program prints, on either stream; empty when it cannot be run.
pub fn first_line(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let Ok(output) = output else { return String::new() };
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&text)
        .lines()
        .map(str::trim)
        .find(|line| !line.is_empty())
        .unwrap_or_default()
        .into()
}

/// Today in UTC, YYYY-MM-DD.
pub fn today() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    date_of_day((seconds / 86_400) as i64)
}

/// Days since 1970-01-01 to a date of the Gregorian calendar; the year is taken to begin in March, so that the leap
/// day is its last.
fn date_of_day(day: i64) -> String {
    let shifted = day + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day_of_month = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day_of_month:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        let known =
            [(0, "1970-01-01"), (11_016, "2000-02-29"), (11_017, "2000-03-01"), (20_453, "2025-12-31")];
        for (day, date) in known {
            assert_eq!(date_of_day(day), date);
        }
    }
}
