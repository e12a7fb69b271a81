//! SQL Server's client against a scripted TDS peer (there is no SQL Server to be had from Debian): what it sends, how it
//! takes what comes back, and that nothing a server does or leaves undone makes it wait, grow, or panic.

mod tds_peer;

use config::{DbTls, Driver};
use db::{CaBundle, Connection, Fault, Kind, Right, Target, Value};
use jiff::civil::datetime;
use std::process::Command;
use std::time::{Duration, Instant};
use tds_peer::requests::{Parameter, Seen};
use tds_peer::tokens::{self, Cell, ServerError};
use tds_peer::{Answer, ENCRYPT_NOT_SUP, ENCRYPT_OFF, ENCRYPT_ON, ENCRYPT_REQ, Peer, Script, Stage, Trouble};

fn target(port: u16) -> Target {
    Target {
        driver: Driver::SqlServer,
        server: "localhost".to_owned(),
        port,
        username: "hl7".to_owned(),
        password: Some("geheim ü".to_owned()),
        database: "lab".to_owned(),
        timeout: Duration::from_secs(20),
        tls: DbTls::Disable,
        certificate: true,
        ca: None,
        create: false,
    }
}

fn impatient(port: u16) -> Target {
    Target { timeout: Duration::from_millis(300), ..target(port) }
}

fn bundle(pem: Option<Result<Vec<u8>, String>>) -> Option<CaBundle> {
    pem.map(|pem| CaBundle { path: "/etc/hl7server/ca.pem".into(), pem })
}

fn connect(peer: &Peer) -> Box<dyn Connection> {
    target(peer.port).connect().unwrap()
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

fn server_error(number: u32, class: u8, message: &str) -> ServerError {
    ServerError { number, class, message: message.to_owned() }
}

/// A fault of a database that cannot be worked with, in time.
fn down<T>(what: &str, began: Instant, result: Result<T, Fault>) -> String {
    let took = began.elapsed();
    assert!(took < Duration::from_secs(5), "{what}: took {took:?}");
    match result {
        Err(Fault::Again { reason, target_down: true, .. }) => reason,
        Err(other) => panic!("{what}: {other:?}"),
        Ok(_) => panic!("{what}: went through"),
    }
}

// --- Login

#[test]
fn a_login_carries_user_password_and_database_and_sets_the_session_up() {
    let peer = Peer::start(Script::default());
    drop(connect(&peer));
    let seen = peer.seen();
    assert_eq!(
        seen[0],
        Seen::Login {
            user: "hl7".to_owned(),
            password: "geheim ü".to_owned(),
            database: "lab".to_owned(),
            server: "localhost".to_owned(),
            application: "hl7server".to_owned(),
            tls: false,
        }
    );
    let Seen::Batch(settings) = &seen[1] else { panic!("{:?}", seen[1]) };
    for setting in ["ANSI_WARNINGS", "XACT_ABORT ON", "LOCK_TIMEOUT 19000"] {
        assert!(settings.contains(setting), "{setting} is not in {settings}");
    }
}

#[test]
fn a_refused_login_waits_and_says_why() {
    for (number, class, message) in [
        (18_456, 14, "Login failed for user 'hl7'."),
        (4_060, 11, "Cannot open database \"lab\" requested by the login."),
        (18_401, 14, "Server is in script upgrade mode."),
        (10_928, 16, "Resource ID: 1. The request limit for the database is 30."),
        (229, 14, "Some number that a statement would fail for."),
    ] {
        let refuse_login = Some(server_error(number, class, message));
        let peer = Peer::start(Script { refuse_login, ..Script::default() });
        let reason = down("login", Instant::now(), target(peer.port).connect());
        assert!(reason.contains(&format!("SQL Server error {number}")), "{reason}");
        assert!(!reason.contains("geheim"), "{reason}");
    }
}

#[test]
fn a_server_that_sends_on_is_followed_and_not_for_ever() {
    let there = Peer::start(Script::default());
    let route_to = Some(("127.0.0.1\\SOME".to_owned(), there.port));
    let gateway = Peer::start(Script { route_to, ..Script::default() });
    drop(connect(&gateway));
    assert_eq!((gateway.logins(), there.logins()), (1, 1));

    let mut chain = vec![there];
    for _ in 0..4 {
        let route_to = Some(("localhost".to_owned(), chain.last().unwrap().port));
        chain.push(Peer::start(Script { route_to, ..Script::default() }));
    }
    let reason = down("routes", Instant::now(), target(chain.last().unwrap().port).connect());
    assert!(reason.contains("sending us on"), "{reason}");
}

// --- TLS

/// A self-signed certificate with its key, for `names`; the certificate's PEM too.
fn certificate(names: &str) -> (native_tls::Identity, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    let (key, pem) = (folder.path().join("key.pem"), folder.path().join("cert.pem"));
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "9",
        ])
        .args(["-subj", "/CN=tds peer", "-addext", &format!("subjectAltName={names}")])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&pem)
        .output()
        .expect("this test needs openssl: apt-get install openssl");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let pem = std::fs::read(pem).unwrap();
    (native_tls::Identity::from_pkcs8(&pem, &std::fs::read(key).unwrap()).unwrap(), pem)
}

const OURS: &str = "DNS:localhost,IP:127.0.0.1";

fn encrypting(encryption: u8, identity: &native_tls::Identity) -> Peer {
    Peer::start(Script { encryption, identity: Some(identity.clone()), ..Script::default() })
}

fn is_encrypted(peer: &Peer) -> bool {
    matches!(peer.seen().first(), Some(Seen::Login { tls: true, .. }))
}

#[test]
fn with_tls_the_login_and_all_that_follows_is_encrypted() {
    let (identity, pem) = certificate(OURS);
    for encryption in [ENCRYPT_ON, ENCRYPT_REQ] {
        for tls in [DbTls::Require, DbTls::Prefer] {
            for server in ["localhost", "127.0.0.1"] {
                let peer = encrypting(encryption, &identity);
                let ca = bundle(Some(Ok(pem.clone())));
                let target = Target { tls, ca, server: server.to_owned(), ..target(peer.port) };
                let mut connection = target.connect().unwrap();
                let long = "x".repeat(100_000);
                assert_eq!(connection.execute("INSERT @P1", &[text(&long)]), Ok(1));
                assert!(is_encrypted(&peer));
                assert_eq!(peer.statements()[0].parameters, [Parameter::Text(long)]);
            }
        }
    }
}

#[test]
fn a_certificate_that_does_not_check_is_refused_and_gets_no_password() {
    let (identity, pem) = certificate(OURS);
    let (_, another) = certificate(OURS);
    let (elsewhere, elsewhere_pem) = certificate("DNS:db.example.org");
    let cases = [
        ("unknown to the system's CAs", &identity, None, "certificate verify failed"),
        ("another CA", &identity, Some(Ok(another)), "certificate verify failed"),
        ("another host's", &elsewhere, Some(Ok(elsewhere_pem)), "hostname mismatch"),
        ("no PEM", &identity, Some(Ok(b"-----".to_vec())), "no certificate in it"),
        (
            "no file",
            &identity,
            Some(Err("could not read ca_file /x: gone".to_owned())),
            "could not read ca_file",
        ),
    ];
    for (what, identity, ca, expected) in cases {
        for tls in [DbTls::Require, DbTls::Prefer] {
            let peer = encrypting(ENCRYPT_ON, identity);
            let target = Target { tls, ca: bundle(ca.clone()), ..target(peer.port) };
            let reason = down(what, Instant::now(), target.connect());
            assert!(reason.to_lowercase().contains(&expected.to_lowercase()), "{what}: {reason}");
            assert_eq!(peer.logins(), 0, "{what}");
        }
    }
    let peer = encrypting(ENCRYPT_ON, &elsewhere);
    let any =
        Target { tls: DbTls::Require, certificate: false, ca: bundle(Some(Ok(pem))), ..target(peer.port) };
    drop(any.connect().unwrap());
    assert!(is_encrypted(&peer));
}

#[test]
fn tls_required_of_a_server_without_it_is_refused_and_gets_no_password() {
    for encryption in [ENCRYPT_NOT_SUP, ENCRYPT_OFF] {
        let peer = Peer::start(Script { encryption, ..Script::default() });
        let target = Target { tls: DbTls::Require, ..target(peer.port) };
        let reason = down("require", Instant::now(), target.connect());
        assert!(reason.contains("has no TLS"), "{reason}");
        assert_eq!(peer.logins(), 0);
    }
}

#[test]
fn tls_preferred_of_a_server_without_it_goes_plain() {
    for encryption in [ENCRYPT_NOT_SUP, ENCRYPT_OFF] {
        let peer = Peer::start(Script { encryption, ..Script::default() });
        drop(Target { tls: DbTls::Prefer, ..target(peer.port) }.connect().unwrap());
        assert!(!is_encrypted(&peer));
    }
}

#[test]
fn tls_disabled_is_refused_by_a_server_that_wants_it_and_gets_no_password() {
    let (identity, _) = certificate(OURS);
    for encryption in [ENCRYPT_ON, ENCRYPT_REQ] {
        let peer = encrypting(encryption, &identity);
        let reason = down("disable", Instant::now(), target(peer.port).connect());
        assert!(reason.contains("encrypted connections only"), "{reason}");
        assert_eq!(peer.logins(), 0);
    }
}

// --- Statements

#[test]
fn an_insert_sends_each_kind_of_value_as_a_parameter_of_its_type() {
    let peer = Peer::start(Script::default());
    let mut connection = connect(&peer);
    let long = "ä€𝄞".repeat(2_000);
    let params = [
        Value::Integer(-5),
        Value::Integer(i64::MAX),
        text(""),
        text("Müller-Lüdenscheidt 𝄞 中文\0'; DROP TABLE t--"),
        text(&long),
        Value::Null,
        Value::Time(datetime(2024, 2, 29, 12, 34, 56, 123_456_000)),
    ];
    let sql = "INSERT INTO [t] ([a]) VALUES (@P1, @P2, @P3, @P4, @P5, @P6, @P7)";
    assert_eq!(connection.execute(sql, &params), Ok(1));
    let [statement] = &peer.statements()[..] else { panic!("{:?}", peer.statements()) };
    assert_eq!(statement.sql, "INSERT INTO [t] ([a]) VALUES (@P1, @P2, @P3, @P4, @P5, NULL, @P6)");
    assert_eq!(
        statement.declared,
        "@P1 bigint,@P2 bigint,@P3 nvarchar(4000),@P4 nvarchar(4000),@P5 nvarchar(max),@P6 datetime2"
    );
    assert_eq!(
        statement.parameters,
        [
            Parameter::Integer(-5),
            Parameter::Integer(i64::MAX),
            Parameter::Text(String::new()),
            Parameter::Text("Müller-Lüdenscheidt 𝄞 中文\0'; DROP TABLE t--".to_owned()),
            Parameter::Text(long),
            Parameter::DateTime2(7, 452_961_234_560, 738_944),
        ]
    );
}

#[test]
fn the_count_of_rows_is_the_statements_own_and_not_a_triggers() {
    let mut with_trigger = tokens::affected(9);
    // The trigger's count alone, then the statement's with the procedure's end.
    with_trigger.truncate(13);
    with_trigger.extend(tokens::affected(0));
    let peer = Peer::start(Script {
        answers: Box::new(move |_| Answer::Tokens(with_trigger.clone())),
        ..Script::default()
    });
    assert_eq!(connect(&peer).execute("INSERT", &[]), Ok(0));
}

#[test]
fn a_query_reads_every_kind_of_value_and_no_more_rows_than_asked_for() {
    let columns = [
        ("id", tokens::Kind::Int),
        ("name", tokens::Kind::NVarChar(50)),
        ("report", tokens::Kind::NVarCharMax),
        ("at", tokens::Kind::DateTime2),
        ("alive", tokens::Kind::Bit),
    ];
    let report = "Befund 𝄞 ".repeat(5_000);
    let full = vec![
        Cell::Int(-7),
        Cell::Text("Jürgen 𝄞".to_owned()),
        Cell::Text(report.clone()),
        Cell::DateTime2(452_961_234_560, 738_944),
        Cell::Bit(true),
    ];
    let empty = vec![Cell::Null, Cell::Null, Cell::Null, Cell::Null, Cell::Null];
    let answer = tokens::table(&columns, &[full, empty.clone(), empty]);
    let peer = Peer::start(Script {
        answers: Box::new(move |_| Answer::Tokens(answer.clone())),
        ..Script::default()
    });
    let mut connection = connect(&peer);
    let expected = vec![
        Value::Integer(-7),
        text("Jürgen 𝄞"),
        text(&report),
        Value::Time(datetime(2024, 2, 29, 12, 34, 56, 123_456_000)),
        Value::Integer(1),
    ];
    let rows = connection.query("SELECT @P1", &[text("x")], 2).unwrap();
    assert_eq!(rows, [expected.clone(), vec![Value::Null; 5]]);
    // What was not asked for was read too: the next answer is the next one's.
    assert_eq!(connection.query("SELECT @P1", &[text("x")], 1).unwrap(), [expected]);
    assert_eq!(peer.logins(), 1);
}

#[test]
fn no_rows_are_no_rows() {
    let answer = tokens::table(&[("id", tokens::Kind::Int)], &[]);
    let peer = Peer::start(Script {
        answers: Box::new(move |_| Answer::Tokens(answer.clone())),
        ..Script::default()
    });
    let mut connection = connect(&peer);
    assert_eq!(connection.query("SELECT", &[], 2).unwrap(), Vec::<Vec<Value>>::new());
    assert_eq!(connection.columns("dbo.t").unwrap(), None);
}

#[test]
fn a_transaction_is_begun_ended_and_taken_back() {
    let peer = Peer::start(Script::default());
    let mut connection = connect(&peer);
    connection.begin().unwrap();
    connection.execute("INSERT", &[]).unwrap();
    connection.commit().unwrap();
    connection.begin().unwrap();
    connection.rollback().unwrap();
    let batch = |seen| if let Seen::Batch(sql) = seen { Some(sql) } else { None };
    let batches: Vec<String> = peer.seen().into_iter().filter_map(batch).skip(1).collect();
    assert_eq!(
        batches,
        [
            "BEGIN TRANSACTION",
            "COMMIT TRANSACTION",
            "BEGIN TRANSACTION",
            "IF @@TRANCOUNT > 0 ROLLBACK TRANSACTION"
        ]
    );
}

#[test]
fn the_columns_of_a_table_come_from_the_catalogue() {
    let text_column = tokens::Kind::NVarChar(128);
    let int = tokens::Kind::Int;
    let columns = [
        ("name", text_column),
        ("base", text_column),
        ("declared", text_column),
        ("bytes", int),
        ("precision", int),
        ("scale", int),
        ("nullable", int),
        ("filled", int),
        ("unique", int),
    ];
    let row = |name: &str, base: &str, numbers: [i32; 6]| {
        let texts = [name, base, base].map(|text| Cell::Text(text.to_owned()));
        texts.into_iter().chain(numbers.map(Cell::Int)).collect::<Vec<_>>()
    };
    let answer = tokens::table(
        &columns,
        &[row("id", "int", [4, 10, 0, 0, 1, 1]), row("message_id", "nvarchar", [40, 0, 0, 1, 0, 1])],
    );
    let peer = Peer::start(Script {
        answers: Box::new(move |_| Answer::Tokens(answer.clone())),
        ..Script::default()
    });
    let found = connect(&peer).columns("dbo.t").unwrap().unwrap();
    assert_eq!(peer.statements()[0].parameters, [Parameter::Text("[dbo].[t]".to_owned())]);
    assert_eq!((found[0].name.as_str(), found[0].kind, found[0].filled), ("id", Kind::Integer(32), true));
    assert_eq!((found[1].declared.as_str(), found[1].kind), ("NVARCHAR(20)", Kind::Text(Some(20))));
    assert!(found[1].nullable && found[1].unique && !found[1].filled && !found[0].nullable);
}

#[test]
fn a_right_that_the_user_lacks_is_found() {
    let peer = Peer::start(Script {
        answers: Box::new(|statement| {
            let lacking = statement.parameters[1] == Parameter::Text("UPDATE".to_owned());
            let cell = if lacking { Cell::Int(0) } else { Cell::Int(1) };
            Answer::Tokens(tokens::table(&[("", tokens::Kind::Int)], &[vec![cell]]))
        }),
        ..Script::default()
    });
    let missing = connect(&peer).missing_rights("t", &[Right::Insert, Right::Update]).unwrap();
    assert_eq!(missing, [Right::Update]);
}

// --- Errors

#[test]
fn a_failed_statement_leaves_the_connection_and_one_that_may_pass_ends_it() {
    let peer = Peer::start(Script {
        answers: Box::new(|statement| {
            let number = statement.sql.parse().unwrap_or(0);
            if number == 0 {
                return Answer::Tokens(tokens::affected(1));
            }
            let class = if number == 1_205 { 13 } else { 16 };
            Answer::Tokens(tokens::failed(&server_error(number, class, "text")))
        }),
        ..Script::default()
    });
    let mut connection = connect(&peer);
    assert!(matches!(connection.execute("547", &[]), Err(Fault::Failed(_))));
    assert!(matches!(connection.query("208", &[], 1), Err(Fault::Failed(_))));
    assert!(matches!(connection.execute("2627", &[]), Err(Fault::Duplicate(_))));
    assert!(connection.is_alive());
    assert_eq!(connection.execute("fine", &[]), Ok(1));
    assert!(matches!(connection.execute("1205", &[]), Err(Fault::Again { target_down: false, .. })));
    assert!(!connection.is_alive());
    assert!(connection.execute("fine", &[]).unwrap_err().is_again());
    assert_eq!(peer.logins(), 1);
}

/// Keeps every line that is logged.
struct Lines;

static LINES: std::sync::Mutex<Vec<String>> = std::sync::Mutex::new(Vec::new());

impl log::Log for Lines {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }
    fn log(&self, record: &log::Record<'_>) {
        LINES.lock().unwrap().push(record.args().to_string());
    }
    fn flush(&self) {}
}

#[test]
fn what_a_server_says_of_a_row_is_neither_logged_nor_a_reason() {
    log::set_logger(&Lines).unwrap();
    log::set_max_level(log::LevelFilter::Trace);
    let answers: [fn() -> Vec<u8>; 3] = [
        || {
            tokens::failed(&server_error(
                2_628,
                16,
                "… in table 't', column 'c'. Truncated value: 'MUELLER'.",
            ))
        },
        || tokens::failed(&server_error(50_000, 16, "MUELLER came in")),
        || tokens::table(&[("c", tokens::Kind::NVarChar(9))], &[vec![Cell::Text("MUELLER".to_owned())]]),
    ];
    for answer in answers {
        let script = Script { answers: Box::new(move |_| Answer::Tokens(answer())), ..Script::default() };
        let peer = Peer::start(script);
        if let Err(fault) = connect(&peer).query("SELECT", &[text("MUELLER")], 2) {
            assert!(!format!("{fault:?}").contains("MUELLER"), "{fault:?}");
        }
    }
    let lines = LINES.lock().unwrap();
    assert!(!lines.iter().any(|line| line.contains("MUELLER")), "{lines:#?}");
    // The password is in no line either.
    assert!(!lines.iter().any(|line| line.contains("geheim")), "{lines:#?}");
}

// --- Servers that misbehave

#[test]
fn whatever_a_server_does_at_any_stage_ends_in_time_and_as_a_fault_that_waits() {
    let (identity, _) = certificate(OURS);
    let garbage: Vec<u8> = (0..=255).cycle().take(5_000).collect();
    let stages =
        [Stage::Accepted, Stage::Prelogin, Stage::Handshake, Stage::Login, Stage::Setup, Stage::Request];
    let troubles = || {
        let mut header_only = vec![4, 1, 0xff, 0xff, 0, 0, 1, 0];
        let mut troubles = vec![
            Trouble::HangUp,
            Trouble::Silence,
            Trouble::Drip(Duration::from_millis(40)),
            Trouble::Flood(vec![0; 4_000]),
            Trouble::Bytes(Vec::new()),
            Trouble::Bytes(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()),
            Trouble::Bytes(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n".to_vec()),
            Trouble::Bytes(garbage.clone()),
            Trouble::Bytes(vec![0; 5_000]),
            Trouble::Bytes(vec![0xff; 5_000]),
            Trouble::Bytes(header_only.clone()),
            // A packet shorter than its header, an empty one, one that never ends its message.
            Trouble::Bytes(vec![4, 1, 0, 3, 0, 0, 1, 0]),
            Trouble::Bytes(vec![4, 1, 0, 8, 0, 0, 1, 0]),
            Trouble::Bytes(vec![4, 0, 0, 9, 0, 0, 1, 0, 0xfd]),
            // Each token alone, with the greatest lengths.
            Trouble::Bytes({
                header_only.extend([0xff; 65_527]);
                header_only
            }),
        ];
        for token in [
            0x79, 0x81, 0x88, 0xa4, 0xa5, 0xa9, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xd1, 0xd2, 0xd3, 0xe3, 0xe4,
            0xed, 0xee, 0xfd, 0xfe, 0xff,
        ] {
            for fill in [0x00, 0x01, 0x7f, 0xff] {
                let mut packet = vec![4, 1, 0, 72, 0, 0, 1, 0, token];
                packet.resize(72, fill);
                troubles.push(Trouble::Bytes(packet));
            }
        }
        troubles
    };
    for stage in stages {
        let encryption = if stage == Stage::Handshake { ENCRYPT_REQ } else { ENCRYPT_NOT_SUP };
        for trouble in troubles() {
            let what = format!("{stage:?} {trouble:?}").chars().take(120).collect::<String>();
            let peer = Peer::start(Script {
                encryption,
                identity: Some(identity.clone()),
                trouble: Some((stage, trouble)),
                ..Script::default()
            });
            let tls = if stage == Stage::Handshake { DbTls::Require } else { DbTls::Disable };
            let target = Target { tls, certificate: false, ..impatient(peer.port) };
            let began = Instant::now();
            let result = target.connect().and_then(|mut connection| {
                connection.execute("INSERT @P1", &[text("x")])?;
                connection.query("SELECT @P1", &[text("x")], 2)
            });
            // Some tokens are harmless, or an answer of a kind: what matters is that it ends.
            let took = began.elapsed();
            assert!(took < Duration::from_secs(5), "{what}: took {took:?}");
            match result {
                Err(Fault::Failed(_) | Fault::Duplicate(_)) => panic!("{what}: {result:?}"),
                Err(Fault::Again { .. }) | Ok(_) => {}
            }
        }
    }
}
