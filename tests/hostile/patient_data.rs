//! Patients' data and secrets are in nothing that the server says of itself.

use super::*;

/// Everything that the server says of itself, by where it says it.
fn said(site: &Site, server: &Server) -> Vec<(String, String)> {
    let mut said = vec![("the log".to_owned(), site.log())];
    for arguments in [
        &["status"] as &[&str],
        &["status", "--json"],
        &["status", "--channel", "adt"],
        &["queue", "list"],
        &["queue", "list", "--json"],
        &["failed", "list"],
        &["failed", "list", "--json"],
        &["check"],
        &["check", "--plan"],
    ] {
        let mut command = site.command(arguments);
        command.envs(SECRETS);
        said.push((arguments.join(" "), finish(command, PATIENCE).said()));
    }
    for (path, bytes) in files(&site.path("state"), ".json") {
        said.push((path.display().to_string(), String::from_utf8_lossy(&bytes).into_owned()));
    }
    let audit = fs::read_to_string(site.path("state/audit.log")).unwrap();
    said.push(("audit.log".to_owned(), audit));
    let pids = process::workers().into_iter().filter(|w| w.parent == server.pid()).map(|w| w.pid);
    for pid in pids.chain([server.pid()]) {
        said.push((format!("/proc/{pid}/cmdline"), process::title(pid).unwrap_or_default()));
        said.push((format!("/proc/{pid}/comm"), process::comm(pid).unwrap_or_default()));
    }
    said
}

#[test]
fn marked_patient_data_and_secrets_are_in_nothing_that_is_said_whatever_fails() {
    let mut site = Site::new();
    let (port, solr_port, dfapi_port, peer_port) = (site.port(), site.port(), site.port(), site.port());
    let ports = [site.port(), site.port(), site.port()];
    fs::create_dir(site.path("db")).unwrap();
    let solr = Solr::start(solr_port, None, &["hl7"]);
    let dfapi = Dfapi::start(dfapi_port, "", None);
    // Peers that repeat what they are sent in their errors, as real ones do.
    let echo = |status| {
        Reply::of(status, "application/json", format!("{{\"error\":{{\"msg\":\"bad value '{MARK}'\"}}}}"))
    };
    solr.state().next_updates.extend((0..200).map(|_| echo(400)));
    dfapi.state().next.extend((0..200).map(|_| echo(422)));
    let echoing = TcpListener::bind(("127.0.0.1", peer_port)).unwrap();
    std::thread::spawn(move || echoing.incoming().flatten().for_each(answer_with_errors));

    let service = json!({"name": "127.0.0.1", "port": dfapi_port, "protocol": "http", "token": "DFAPI_TOKEN", "timeout": 2});
    let server = json!({
        "name": "127.0.0.1", "port": solr_port, "protocol": "http", "user": USER, "password": "SOLR_PASSWORD", "timeout": 2,
    });
    let retry = json!({"first": 0.2, "longest": 1, "give_up": 3});
    let mut adt_channel = site.store_channel("adt", port);
    adt_channel["retry"] = retry.clone();
    adt_channel["message_types"] = json!({"ADT^A01": "credentials", "ADT^A34": "patient_merge"});
    adt_channel["mapping"] = json!({"patient_id": "PID.1.3.1", "name": "PID.1.5.1", "room": "ZZZ.1.1"});
    adt_channel["mapping_ignore"] = json!(["room"]);
    adt_channel["credentials_metadata"] = json!({"number": "patient_id", "surname": "name"});
    adt_channel["custom_regex"] = json!({"name": "(?=(a+)+b)a"});
    adt_channel["resend"] = json!({"server": "127.0.0.1", "port": peer_port, "timeout": 2});
    // The name is no number: the insert fails, and says so.
    adt_channel["db_insert"] = json!({
        "driver": "SQLite", "database": site.text("db/hl7.db"), "table": "patients", "create_table": true,
    });
    adt_channel["db_metadata"] = json!({"name": {"field_name": "NAME", "field_type": "Integer"}});
    let mut oru_channel = site.store_channel("oru", ports[0]);
    oru_channel["retry"] = retry.clone();
    oru_channel["message_types"] = json!({});
    oru_channel["attachment_field"] = json!(PDF_FIELD);
    oru_channel["attachment_format"] = json!("pdf");
    oru_channel["add_metadata_to_attachment"] = json!(true);
    oru_channel["mapping"] = json!({"name": "PID.1.5.1"});
    oru_channel["drop_folders"] = json!({"far": {
        "remote": true, "server": "127.0.0.1", "port": ports[1], "path": "/x", "user": "u", "password": "SFTP_PASSWORD",
        "known_hosts": site.text("known_hosts"), "timeout": 2,
    }});
    let mut narrow = site.store_channel("narrow", ports[2]);
    narrow["mapping"] = json!({"ward": "ZZZ.1.1"});
    narrow["stream_limit"] = json!(65_536);
    narrow["on_undecodable"] = json!("refuse");
    narrow["accept_versions"] = json!(["2.5"]);
    narrow["message_types"] = json!({"ADT^A01": "store"});
    site.configure(json!({
        "store_solr": true, "solr_servers": [server], "create_credentials": true, "dfapi": service, "debug_mode": true,
        "channels": [adt_channel, oru_channel, narrow],
    }));
    let mut command = site.command(&["run"]);
    command.envs(SECRETS);
    let server = site.launch(command);
    server.wait_ready();

    let marked = |body: Vec<u8>| {
        let text = String::from_utf8(body).unwrap().replace("Musterfrau", MARK);
        text.replace("^Erika", &format!("^{MARK}")).into_bytes()
    };
    accepted(port, &marked(adt("A1", MARK)), "A1");
    let merge = [marked(typed("ADT^A34^ADT_A30", "A2", MARK)), format!("MRG|{MARK}\r").into_bytes()].concat();
    accepted(port, &merge, "A2");
    let (good, broken) = (marked(oru("D1", MARK).0), typed("ORU^R01", "D2", MARK));
    accepted(ports[0], &good, "D1");
    let broken =
        [marked(broken), format!("OBX|1|ED|R||^application^pdf^Base64^{MARK}!!\r").into_bytes()].concat();
    accepted(ports[0], &broken, "D2");
    accepted(ports[2], &marked(adt("N1", MARK)), "N1");
    let of = |body: Vec<u8>| String::from_utf8(marked(body)).unwrap();
    for odd in [
        // A version, a type and bytes that are refused; a message too long; none at all; junk; a frame cut off.
        of(adt("N2", MARK)).replace("|2.5\r", &format!("|{MARK}\r")).into_bytes(),
        of(typed(&format!("ZZZ^{MARK}"), "N3", MARK)).into_bytes(),
        [of(adt("N4", MARK)).as_bytes(), b"NTE|1||\xff\xfe\r"].concat(),
        of(adt("N5", MARK)).replace("|F\r", &format!("|F|{}\r", MARK.repeat(8000))).into_bytes(),
        format!("PID|1||{MARK}\r").into_bytes(),
    ] {
        let mut peer = Peer::connect(ports[2]);
        let _ = peer.send_raw(&frame(&odd));
        let _ = peer.receive(ANSWER);
    }
    for raw in [MARK.repeat(400).into_bytes(), frame(&marked(adt("N6", MARK)))[..60].to_vec()] {
        let mut peer = Peer::connect(ports[2]);
        let _ = peer.send_raw(&raw);
    }
    let failed = within(PATIENCE, "everything that can fail has failed", || {
        let failed = site.list(&["failed", "list"]);
        (failed.len() >= 5).then_some(failed)
    });
    eprintln!("{failed:#?}");
    let said = said(&site, &server);
    for (place, text) in &said {
        assert!(!text.contains(MARK), "{place} has patient data:\n{}", around(text, MARK));
        for (name, secret) in SECRETS {
            assert!(!text.contains(secret), "{place} has the secret {name}:\n{}", around(text, secret));
        }
    }
    // The test could see it: what is kept for a person holds it.
    let kept: Vec<_> = files(&site.path("state"), ".hl7");
    assert!(kept.iter().any(|(_, bytes)| String::from_utf8_lossy(bytes).contains(MARK)));
    assert!(said.iter().any(|(place, text)| place.ends_with(".json") && text.contains("reason")));
}

/// Answers each message AE with an ERR that repeats what came.
fn answer_with_errors(mut stream: TcpStream) {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(n @ 1..) = stream.read(&mut buffer) {
        bytes.extend_from_slice(&buffer[..n]);
        if bytes.ends_with(b"\x1c\r") {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let control_id = text.split('|').nth(9).unwrap_or_default().to_owned();
            let answer = format!(
                "\x0bMSH|^~\\&|A|B|C|D|20260101||ACK|1|P|2.5\rMSA|AE|{control_id}|{MARK}\rERR|||101^{MARK}|E||||{MARK}\r\x1c\r"
            );
            let _ = stream.write_all(answer.as_bytes());
            bytes.clear();
        }
    }
}

/// The lines of a text that hold it.
fn around(text: &str, what: &str) -> String {
    text.lines().filter(|line| line.contains(what)).take(5).collect::<Vec<_>>().join("\n")
}
