//! Telling somebody: a command that gets the notice as JSON on its standard input, or a POST of the same.
//!
//! The command is started without a shell, with an environment of a path and nothing else (a password of the page is in
//! ours), and is killed with all that it started when it takes too long. A webhook's URL may hold a token, so no error
//! and no log line shows more of it than its host.

use super::conditions::{Change, Notice};
use crate::cli::output::plain;
use config::AlertAction;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use ureq::tls::{RootCerts, TlsConfig, TlsProvider};

/// A command may ring a modem.
const COMMAND_TIME_MAX: Duration = Duration::from_secs(60);
const WEBHOOK_TIME_MAX: Duration = Duration::from_secs(20);
const COMMAND_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Of a notice as text: channels' problems are bounded by the link, paths by the system.
const MESSAGE_BYTES_MAX: usize = 2_000;

/// Tells it; what comes back in words is why it was not told.
pub(super) fn tell(action: &AlertAction, notice: &Notice) -> Result<(), String> {
    let body = json(notice);
    match action {
        AlertAction::Command(words) => run(words, &body, COMMAND_TIME_MAX),
        AlertAction::Webhook(url) => post(url, &body, WEBHOOK_TIME_MAX),
    }
}

/// What the command or the webhook gets: one object, one line.
fn json(notice: &Notice) -> String {
    let time =
        |us: i64| jiff::Timestamp::from_microsecond(us).map(|time| time.to_string()).unwrap_or_default();
    let mut message = notice.message.clone();
    message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
    let state = match notice.state {
        Change::Raised => "raised",
        Change::Cleared => "cleared",
    };
    let object = serde_json::json!({
        "alert": notice.alert,
        "when": notice.when,
        "state": state,
        "channel": notice.channel,
        "subject": notice.subject,
        "message": message,
        "since": time(notice.since_us),
        "at": time(notice.at_us),
        "host": rustix::system::uname().nodename().to_string_lossy(),
    });
    format!("{object}\n")
}

fn run(words: &[String], body: &str, time_max: Duration) -> Result<(), String> {
    let (program, arguments) = words.split_first().ok_or("a command without a program")?;
    let mut child = Command::new(program)
        .args(arguments)
        .env_clear()
        .env("PATH", COMMAND_PATH)
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .map_err(|error| format!("could not start \"{program}\": {}", plain(&error)))?;
    if let Some(mut stdin) = child.stdin.take() {
        // It fits a pipe, so this does not block; a command that does not read it has its own reasons.
        let _ = stdin.write_all(body.as_bytes());
    }
    let ended = wait(&mut child, time_max);
    // Whatever it left running in its group ends with it.
    if let Ok(group) = i32::try_from(child.id()) {
        let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
    }
    match ended {
        Some(status) if status.success() => Ok(()),
        Some(status) => Err(format!("\"{program}\" ended with {status}")),
        None => {
            let _ = child.kill();
            let _ = child.wait();
            Err(format!("\"{program}\" did not end within {} s", time_max.as_secs()))
        }
    }
}

fn wait(child: &mut Child, time_max: Duration) -> Option<ExitStatus> {
    let deadline = Instant::now() + time_max;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) if Instant::now() < deadline => thread::sleep(Duration::from_millis(20)),
            Ok(None) | Err(_) => return None,
        }
    }
}

fn post(url: &str, body: &str, time_max: Duration) -> Result<(), String> {
    let host =
        url.split("://").nth(1).and_then(|rest| rest.split(['/', '?', '#']).next()).unwrap_or_default();
    // What stands before an @ is a password.
    let host = host.rsplit('@').next().unwrap_or_default();
    let tls =
        TlsConfig::builder().provider(TlsProvider::NativeTls).root_certs(RootCerts::PlatformVerifier).build();
    let agent = ureq::Agent::config_builder()
        .tls_config(tls)
        .timeout_global(Some(time_max))
        // A redirect would carry the notice where the file did not say.
        .max_redirects(0)
        .proxy(None)
        .http_status_as_error(false)
        .build()
        .new_agent();
    let sent = agent.post(url).header("Content-Type", "application/json").send(body);
    match sent {
        Ok(response) if response.status().is_success() => Ok(()),
        Ok(response) => Err(format!("webhook at {host} answered {}", response.status().as_u16())),
        Err(ureq::Error::BadUri(_)) => Err(format!("webhook at {host}: not a URL")),
        Err(ureq::Error::Io(error)) => Err(format!("webhook at {host}: {}", plain(&error))),
        Err(ureq::Error::Timeout(_)) => {
            Err(format!("webhook at {host} did not answer within {} s", time_max.as_secs()))
        }
        Err(ureq::Error::HostNotFound) => Err(format!("webhook at {host}: no such host")),
        Err(ureq::Error::ConnectionFailed) => Err(format!("webhook at {host}: could not connect")),
        // Others could show the URL.
        Err(_) => Err(format!("webhook at {host}: the exchange failed")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Vec<String> {
        ["/bin/sh", "-c", script].map(str::to_owned).to_vec()
    }

    #[test]
    fn a_command_gets_one_line_of_json_and_nothing_of_our_environment() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let script = format!("cat > {0}; env | cut -d= -f1 | sort | tr '\\n' ' ' >> {0}", out.display());
        let notice = Notice {
            alert: "a".into(),
            when: "down".into(),
            state: Change::Raised,
            channel: None,
            subject: String::new(),
            message: "line\nbreak \"quote\"".into(),
            since_us: 0,
            at_us: 1_000_000,
        };
        run(&shell(&script), &json(&notice), Duration::from_secs(20)).unwrap();
        let text = std::fs::read_to_string(out).unwrap();
        let (line, names) = text.split_once('\n').unwrap();
        let object: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(object["message"], "line\nbreak \"quote\"");
        assert_eq!(object["at"], "1970-01-01T00:00:01Z");
        assert!(names.contains("PATH") && !names.contains("CARGO") && !names.contains("HOME"), "{names}");
    }

    #[test]
    fn a_command_that_fails_hangs_or_is_not_there_says_so_and_leaves_nothing_behind() {
        let short = Duration::from_millis(300);
        assert!(run(&shell("exit 3"), "", short).unwrap_err().contains("exit status: 3"));
        assert!(run(&["/no/such".to_owned()], "", short).unwrap_err().contains("no such file"));
        let folder = tempfile::tempdir().unwrap();
        let pid = folder.path().join("pid");
        let script = format!("sleep 60 & echo $! > {}; wait", pid.display());
        let began = Instant::now();
        assert!(run(&shell(&script), "", short).unwrap_err().contains("did not end"));
        assert!(began.elapsed() < Duration::from_secs(10));
        let pid = std::fs::read_to_string(pid).unwrap();
        let state = || std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
        let deadline = Instant::now() + Duration::from_secs(10);
        while !state().is_empty() && !state().contains(") Z") {
            assert!(Instant::now() < deadline, "the command's child runs on");
            thread::sleep(Duration::from_millis(10));
        }
    }

    #[test]
    fn a_webhook_that_fails_does_not_show_its_token() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let url = format!("http://user:secret@127.0.0.1:{port}/services/TOKEN?key=TOKEN");
        let fault = post(&url, "{}", Duration::from_secs(5)).unwrap_err();
        assert!(fault.contains(&format!("127.0.0.1:{port}")), "{fault}");
        assert!(!fault.contains("TOKEN") && !fault.contains("secret"), "{fault}");
    }
}
