//! Real database servers for tests: MariaDB and PostgreSQL from Debian's packages, each in a temporary folder on a free
//! port, as an ordinary user also where the tests run as root (both refuse to run as root). A guard ends them by pid.

use super::ports;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The user of the tests' connections; it owns the database of the same name.
pub const USER: &str = "hl7";
/// Its password.
pub const PASSWORD: &str = "s3cret'\"\\pw";
/// The database.
pub const DATABASE: &str = "hl7";

/// How long a server may take to start on a loaded machine.
const START: Duration = Duration::from_secs(60);

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// MariaDB.
    MariaDb,
    /// PostgreSQL.
    PostgreSql,
}

/// How it runs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mode {
    /// It takes no writes.
    pub read_only: bool,
    /// It offers TLS, with a certificate for `localhost` that `ca.pem` in its folder signed.
    pub tls: bool,
    /// Connections of ordinary users at most; 0 is the server's default.
    pub connections: u32,
}

/// A running, or stopped, server.
pub struct DatabaseServer {
    /// Which.
    pub engine: Engine,
    /// Where it listens, on 127.0.0.1.
    pub port: u16,
    folder: TempDir,
    child: Option<Child>,
    _claim: File,
}

impl DatabaseServer {
    /// Sets one up and starts it.
    pub fn start(engine: Engine, mode: Mode) -> DatabaseServer {
        static STARTED: AtomicU32 = AtomicU32::new(500);
        let folder = tempfile::Builder::new().prefix("hl7db").tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let (port, claim) = ports::claim(STARTED.fetch_add(1, Relaxed));
        let mut server = DatabaseServer { engine, port, folder, child: None, _claim: claim };
        server.set_up(mode);
        server.start_again(mode);
        if engine == Engine::PostgreSql {
            let password = PASSWORD.replace('\'', "''");
            server.sql_in("postgres", &format!("CREATE ROLE {USER} LOGIN PASSWORD '{password}'"));
            server.sql_in("postgres", &format!("CREATE DATABASE {DATABASE} OWNER {USER} ENCODING 'UTF8'"));
            server.sql(&format!("ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO {USER}"));
        }
        server
    }

    /// Starts it once more on the same data and port, and waits until it answers.
    pub fn start_again(&mut self, mode: Mode) {
        assert!(self.child.is_none(), "it runs");
        let mut command = match self.engine {
            Engine::MariaDb => self.mariadb(mode),
            Engine::PostgreSql => self.postgresql(mode),
        };
        let log = File::options().create(true).append(true).open(self.folder.path().join("log")).unwrap();
        let child = command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn();
        self.child = Some(child.expect("the server's binary is there, it has been looked for"));
        let end = Instant::now() + START;
        let database = if self.engine == Engine::MariaDb { DATABASE } else { "postgres" };
        while !self.client(database, "SELECT 1").status.success() {
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            assert!(
                ended.is_none() && Instant::now() < end,
                "{:?} did not start:\n{}",
                self.engine,
                self.log()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Ends it as an operator does: connections are closed.
    pub fn stop(&mut self) {
        // PostgreSQL: INT is the fast shutdown, TERM waits for clients.
        let signal = if self.engine == Engine::PostgreSql { Signal::SIGINT } else { Signal::SIGTERM };
        self.end(signal);
    }

    /// Ends it as a power cut does.
    pub fn kill(&mut self) {
        self.end(Signal::SIGKILL);
    }

    /// Freezes it: it keeps its connections and answers nothing.
    pub fn freeze(&self) {
        // PostgreSQL's connections are processes of their own.
        for pid in self.processes() {
            let _ = kill(pid, Signal::SIGSTOP);
        }
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        for pid in self.processes() {
            let _ = kill(pid, Signal::SIGCONT);
        }
    }

    /// Carries out SQL as the administrator, in the tests' database, and gives what it prints: a line a row, columns
    /// separated by `|` (PostgreSQL) or a tab (MariaDB).
    #[track_caller]
    pub fn sql(&self, sql: &str) -> String {
        self.sql_in(DATABASE, sql)
    }

    /// The same; `None` where the server refuses it.
    pub fn try_sql(&self, sql: &str) -> Option<String> {
        let output = self.client(DATABASE, sql);
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap().trim_end().to_owned())
    }

    /// The certificate authority that signed its certificate.
    pub fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    #[track_caller]
    fn sql_in(&self, database: &str, sql: &str) -> String {
        let output = self.client(database, sql);
        assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    fn client(&self, database: &str, sql: &str) -> Output {
        let port = self.port.to_string();
        let mut command = match self.engine {
            Engine::MariaDb => {
                let mut command = Command::new("mariadb");
                command.args([
                    "--no-defaults",
                    "--batch",
                    "--skip-column-names",
                    "--default-character-set=utf8mb4",
                ]);
                command.arg("--raw").arg("--socket").arg(self.folder.path().join("s"));
                command.args(["-u", "root", "-D", database, "-e", sql]);
                command
            }
            Engine::PostgreSql => {
                let mut command = Command::new("psql");
                command.args([
                    "-X",
                    "-q",
                    "-A",
                    "-t",
                    "-v",
                    "ON_ERROR_STOP=1",
                    "-h",
                    "127.0.0.1",
                    "-p",
                    &port,
                ]);
                command.args(["-U", "postgres", "-d", database, "-c", sql]).env("PGCLIENTENCODING", "UTF8");
                command
            }
        };
        command.stdin(Stdio::null()).output().expect("the client is installed with the server")
    }

    fn set_up(&self, mode: Mode) {
        let folder = self.folder.path();
        let data = folder.join("data");
        fs::create_dir(&data).unwrap();
        fs::set_permissions(&data, fs::Permissions::from_mode(0o700)).unwrap();
        if mode.tls {
            certificates(folder);
        }
        let password = PASSWORD.replace('\\', "\\\\").replace('\'', "''");
        let init = format!(
            "CREATE DATABASE IF NOT EXISTS {DATABASE};\n\
             CREATE USER IF NOT EXISTS '{USER}'@'%' IDENTIFIED BY '{password}';\n\
             GRANT ALL ON {DATABASE}.* TO '{USER}'@'%';\n"
        );
        fs::write(folder.join("init.sql"), init).unwrap();
        own(folder);
        let mut command = match self.engine {
            Engine::MariaDb => {
                let mut command = ordinary("mariadb-install-db");
                command.arg("--no-defaults").arg(format!("--datadir={}", data.display()));
                command.args([
                    "--auth-root-authentication-method=normal",
                    "--skip-test-db",
                    "--innodb-log-file-size=8M",
                ]);
                command
            }
            Engine::PostgreSql => {
                let mut command = ordinary(postgresql_tool("initdb"));
                command.arg("-D").arg(&data).args([
                    "-U",
                    "postgres",
                    "-E",
                    "UTF8",
                    "--locale=C.UTF-8",
                    "--no-sync",
                    "-A",
                    "trust",
                ]);
                command
            }
        };
        let output = command.stdin(Stdio::null()).output();
        let output = output
            .unwrap_or_else(|e| panic!("{:?} is missing ({e}): run tests/support/install", self.engine));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        if self.engine == Engine::PostgreSql {
            let hba = "host all postgres 127.0.0.1/32 trust\nhost all all all scram-sha-256\n";
            fs::write(data.join("pg_hba.conf"), hba).unwrap();
        }
    }

    fn mariadb(&self, mode: Mode) -> Command {
        let folder = self.folder.path();
        let mut command = ordinary("mariadbd");
        let set = |name: &str, path: PathBuf| format!("--{name}={}", path.display());
        command
            .arg("--no-defaults")
            .arg(set("datadir", folder.join("data")))
            .arg(set("socket", folder.join("s")));
        command.arg(set("pid-file", folder.join("data/pid"))).arg(set("init-file", folder.join("init.sql")));
        command
            .arg(format!("--port={}", self.port))
            .args(["--bind-address=127.0.0.1", "--skip-name-resolve"]);
        command.args([
            "--innodb-buffer-pool-size=32M",
            "--innodb-log-file-size=8M",
            "--innodb-fast-shutdown=2",
        ]);
        // A server's own character set is not always what one hopes for.
        command.arg("--character-set-server=latin1");
        if mode.read_only {
            command.arg("--read-only=1");
        }
        if mode.connections > 0 {
            command.arg(format!("--max-connections={}", mode.connections));
        }
        if mode.tls {
            for name in ["ca", "cert", "key"] {
                command.arg(set(&format!("ssl-{name}"), folder.join(format!("{name}.pem"))));
            }
        }
        command
    }

    fn postgresql(&self, mode: Mode) -> Command {
        let folder = self.folder.path();
        let mut command = ordinary(postgresql_tool("postgres"));
        command.arg("-D").arg(folder.join("data")).args(["-h", "127.0.0.1", "-p", &self.port.to_string()]);
        command.args([
            "-c",
            "unix_socket_directories=",
            "-c",
            "shared_buffers=16MB",
            "-c",
            "logging_collector=off",
        ]);
        if mode.read_only {
            command.args(["-c", "default_transaction_read_only=on"]);
        }
        if mode.connections > 0 {
            let all = mode.connections + 3;
            command.args(["-c", &format!("max_connections={all}"), "-c", "superuser_reserved_connections=3"]);
            command.args(["-c", "max_wal_senders=0"]);
        }
        if mode.tls {
            command.args(["-c", "ssl=on"]);
            for name in ["cert", "key"] {
                command
                    .arg("-c")
                    .arg(format!("ssl_{name}_file={}", folder.join(format!("{name}.pem")).display()));
            }
        }
        command
    }

    fn end(&mut self, signal: Signal) {
        let Some(mut child) = self.child.take() else { return };
        let children = if signal == Signal::SIGKILL { self.children_of(child.id()) } else { Vec::new() };
        let _ = kill(Pid::from_raw(child.id() as i32), signal);
        for pid in children {
            let _ = kill(pid, signal);
        }
        let end = Instant::now() + START;
        while child.try_wait().unwrap().is_none() {
            if Instant::now() > end {
                let _ = child.kill();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        // PostgreSQL refuses to start over one that was killed and whose processes still go.
        let _ = fs::remove_file(self.folder.path().join("data/postmaster.pid"));
    }

    fn processes(&self) -> Vec<Pid> {
        let Some(child) = &self.child else { return Vec::new() };
        let mut all = vec![Pid::from_raw(child.id() as i32)];
        all.extend(self.children_of(child.id()));
        all
    }

    fn children_of(&self, pid: u32) -> Vec<Pid> {
        let listed = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        listed.split_whitespace().filter_map(|pid| pid.parse().ok()).map(Pid::from_raw).collect()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for DatabaseServer {
    fn drop(&mut self) {
        self.thaw();
        self.kill();
    }
}

/// A command that runs as an ordinary user.
fn ordinary(program: impl AsRef<Path>) -> Command {
    let program = program.as_ref();
    if !geteuid().is_root() {
        let mut command = Command::new(program);
        command.env("PATH", path());
        return command;
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]).arg(program);
    command.env("PATH", path()).current_dir("/");
    command
}

fn path() -> String {
    format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default())
}

fn own(folder: &Path) {
    if geteuid().is_root() {
        let done = Command::new("chown").args(["-R", "65534:65534"]).arg(folder).status().unwrap();
        assert!(done.success());
    }
}

/// Debian keeps PostgreSQL's tools out of the path, a folder a version.
fn postgresql_tool(name: &str) -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<_> =
        versions.map(|at| at.path().join("bin").join(name)).filter(|at| at.exists()).collect();
    found.sort();
    found.pop().unwrap_or_else(|| panic!("PostgreSQL is missing: run tests/support/install"))
}

/// `ca.pem`, and `cert.pem` and `key.pem` for `localhost`, signed by it.
fn certificates(folder: &Path) {
    let script = "set -e; cd \"$1\"; \
        openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=hl7-test-ca 2>/dev/null; \
        openssl req -newkey rsa:2048 -nodes -keyout key.pem -out cert.csr -subj /CN=localhost 2>/dev/null; \
        printf 'subjectAltName=DNS:localhost' >san; \
        openssl x509 -req -in cert.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile san -out cert.pem 2>/dev/null; \
        chmod 600 key.pem";
    let done = Command::new("sh").args(["-c", script, "sh"]).arg(folder).status().unwrap();
    assert!(done.success(), "openssl could not make certificates");
}
