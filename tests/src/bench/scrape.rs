//! What a dispatcher tells of its passes on `/metrics`.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

const METRIC: &str = "switchyard_pass_seconds";
const TIMEOUT: Duration = Duration::from_secs(5);
const MILLISECONDS_PER_SECOND: f64 = 1e3;

/// Passes so far.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Passes {
    count: f64,
    seconds: f64,
}

impl Passes {
    /// Asks at `address`; none when it does not answer or has not made any.
    #[must_use]
    pub fn read(address: &str) -> Option<Self> {
        let mut stream = TcpStream::connect(address).ok()?;
        stream.set_read_timeout(Some(TIMEOUT)).ok()?;
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").ok()?;
        let mut page = String::new();
        stream.read_to_string(&mut page).ok()?;
        Self::parse(&page)
    }

    fn parse(page: &str) -> Option<Self> {
        let value = |suffix: &str| -> Option<f64> {
            let name = format!("{METRIC}_{suffix}");
            let line = page.lines().find(|line| line.starts_with(&name))?;
            line.rsplit_once(' ')?.1.parse().ok()
        };
        Some(Self { count: value("count")?, seconds: value("sum")? })
    }

    /// The mean time of those since `before`.
    #[must_use]
    pub fn mean_ms_since(self, before: Self) -> Option<f64> {
        let count = self.count - before.count;
        (count > 0.0).then(|| (self.seconds - before.seconds) / count * MILLISECONDS_PER_SECOND)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_is_of_what_came_since() {
        let page = "# TYPE switchyard_pass_seconds summary\nswitchyard_pass_seconds{quantile=\"0.5\"} 0.1\n\
            switchyard_pass_seconds_sum 1.5\nswitchyard_pass_seconds_count 6\n";
        let after = Passes::parse(page).unwrap();
        let before = Passes { count: 2.0, seconds: 0.5 };
        assert_eq!(after.mean_ms_since(before), Some(250.0));
        assert_eq!(before.mean_ms_since(before), None);
    }
}
