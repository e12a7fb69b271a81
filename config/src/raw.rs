//! Mirror of the file, key for key: what may stand where, and in what form. An unknown key is refused here.

pub(crate) mod read;

use read::{
    AnyScalar, Bytes, FreeText, List, OneOrMany, Pairs, ShortOr, SwitchOr, Table, TableOrList, section,
};
use std::time::Duration;

section! {
    /// The root, or what stands below a lone `service:`.
    Service, "the service" {
        debug_values: bool,
        debug_mode: bool,
        config_version: String,
        max_tasks: i64,
        store_solr: bool,
        create_credentials: bool,
        solr_servers: List<Solr>,
        dfapi: Dfapi,
        user: String,
        group: String,
        stop_timeout: Duration,
        alerts: List<Alert>,
        unknown_keys: FreeText,
        channels: List<Channel>,
        state_path: String,
        runtime_path: String,
        log_format: String,
    }
}

section! {
    /// One of `solr_servers`.
    Solr, "a Solr server" {
        server_version: String,
        name: String,
        port: i64,
        protocol: String,
        user: String,
        password: FreeText,
        certificate: bool,
        active: bool,
        active_cores: List<String>,
        ca_file: String,
        timeout: Duration,
    }
}

section! {
    /// `dfapi`.
    Dfapi, "dfapi" {
        name: String,
        port: i64,
        protocol: String,
        path: String,
        token: FreeText,
        certificate: bool,
        ca_file: String,
        timeout: Duration,
    }
}

section! {
    /// One of `alerts`.
    Alert, "an alert" {
        name: String,
        when: String,
        limit: AnyScalar,
        hours: String,
        channels: List<String>,
        command: OneOrMany<String>,
        webhook: String,
    }
}

section! {
    /// One of `channels`.
    Channel, "a channel" {
        name: String,
        port: i64,
        listen: String,
        enabled: bool,
        stream_limit: Bytes,
        encoding: String,
        debug_message: bool,
        debug_metadata: bool,
        patient_id_field: String,
        accession_number_field: String,
        attachment_field: String,
        attachment_format: String,
        archive_first | "archive_list": bool,
        add_metadata_to_attachment: bool,
        visible_metadata: bool,
        local_archive: LocalArchive,
        drop_folders: TableOrList<DropFolder>,
        mapping: Table<OneOrMany<String>>,
        mapping_separator: FreeText,
        mapping_ignore: List<String>,
        custom_regex: Table<ShortOr<CustomRegex>>,
        db_metadata: Table<DbColumn>,
        db_insert: DbInsert,
        db_mapping: Table<Lookup>,
        credentials_metadata: Table<String>,
        book_metadata: Table<String>,
        mobile: Mobile,
        resend: Resend,
        solr_segments: List<String>,
        message_types: Table<String>,
        accept_versions: List<String>,
        accept_processing_ids: List<String>,
        duplicates: String,
        on_undecodable: String,
        metadata_pages: String,
        on_stamp_failure: String,
        attachment_output: String,
        retention_days: Retention,
        ack: String,
        allow: List<String>,
        tls: Tls,
        max_connections: i64,
        max_connections_per_address: i64,
        idle_timeout: Duration,
        message_timeout: Duration,
        buffer_limit: Bytes,
        tasks: i64,
        retry: Retry,
        answer_timeout: Duration,
        max_backlog: i64,
    }
}

section! {
    /// `local_archive`.
    LocalArchive, "local_archive" {
        enabled: bool,
        format: String,
        path: String,
        attachment: String,
        retention_days: i64,
    }
}

section! {
    /// One of `drop_folders`.
    DropFolder, "a drop folder" {
        enabled: bool,
        remote: bool,
        path: String,
        server: String,
        port: i64,
        user: String,
        key_file: String,
        passphrase: FreeText,
        password: FreeText,
        known_hosts: String,
        timeout: Duration,
    }
}

section! {
    /// One of `custom_regex`, where it is more than a pattern.
    CustomRegex, "a custom_regex" {
        pattern: FreeText,
        replace: FreeText,
    }
}

section! {
    /// One of `db_metadata`.
    DbColumn, "a column" {
        field_name: String,
        field_type: String,
        autoincrement: bool,
        random: bool,
        auto: bool,
        nullable: bool,
    }
}

section! {
    /// `db_insert`.
    DbInsert, "db_insert" {
        driver: String,
        server: String,
        port: i64,
        username: String,
        password: FreeText,
        database: String,
        table: String,
        mapping_table: String,
        create_table: bool,
        debug_table: bool,
        replace_list: Table<Pairs>,
        timeout: Duration,
        certificate: bool,
        ca_file: String,
        tls: String,
        message_key: String,
    }
}

section! {
    /// One of `db_mapping`.
    Lookup, "a db_mapping" {
        column: String,
        matches = "match": String,
        returns = "return": String,
    }
}

section! {
    /// `mobile`.
    Mobile, "mobile" {
        fields: List<String>,
        pattern: FreeText,
    }
}

section! {
    /// `resend`.
    Resend, "resend" {
        enabled: bool,
        server: String,
        port: i64,
        timeout: Duration,
        after_processing: bool,
        filter: ResendFilter,
        tls: SwitchOr<ClientTls>,
        accept_codes: List<String>,
    }
}

section! {
    /// `resend.filter`.
    ResendFilter, "the filter" {
        source_core: String,
        match_source: String,
        match_field: String,
        search_field: String,
        match_values: List<FreeText>,
    }
}

section! {
    /// `resend.tls`.
    ClientTls, "tls" {
        ca_file: String,
        certificate: String,
        key: String,
        verify_name: String,
    }
}

section! {
    /// `retention_days` of a channel.
    Retention, "retention_days" {
        failed: i64,
        quarantine: i64,
    }
}

section! {
    /// `tls` of a channel.
    Tls, "tls" {
        certificate: String,
        key: String,
        client_ca: String,
        client_names: List<String>,
    }
}

section! {
    /// `retry`.
    Retry, "retry" {
        first: Duration,
        longest: Duration,
        give_up: Duration,
    }
}
