-- A state of schema 3, as the jobfs of that time wrote it.
BEGIN TRANSACTION;
CREATE TABLE holder (name TEXT PRIMARY KEY, job INTEGER NOT NULL);
INSERT INTO "holder" VALUES('build',1);
CREATE TABLE job (
    id INTEGER PRIMARY KEY AUTOINCREMENT,  -- AUTOINCREMENT: an id is never given twice, also after its removal
    spec TEXT NOT NULL,
    environment BLOB NOT NULL,
    status TEXT NOT NULL,
    handle TEXT,
    pid INTEGER,
    reason TEXT,
    created_at REAL NOT NULL,
    started_at REAL,
    ended_at REAL,
    elapsed REAL,
    usage TEXT
, written TEXT, spec_checksum INTEGER NOT NULL DEFAULT 0, end_checksum INTEGER);
INSERT INTO "job" VALUES(1,'{"cmd": "make -j8", "argv": null, "directory": "/src", "name": "build", "cwd": null, "umask": 18, "stdin": "none", "limit": 10485760, "timeout": null, "grace": 5.0, "nice": null, "pty": false, "lease": false, "writer": {"pid": 100, "uid": 0, "session": 90, "command": "bash"}}',X'484F4D453D2F726F6F74004F44443DFF00','failed:2','4711 boot',4711,'because',1700000000.25,1700000000.5,1700000003.5,3.0,'{"cpu_user_s": 0.5, "cpu_system_s": 0.25, "rss_bytes": null, "max_rss_bytes": 4096, "processes": 0, "lingering": 0}',NULL,1067318575,4283275581);
INSERT INTO "job" VALUES(2,'{"cmd": null, "argv": ["sleep", "7"], "directory": "/", "name": null, "cwd": null, "umask": 18, "stdin": "pipe", "limit": 4096, "timeout": 1.5, "grace": 0.25, "nice": 3, "pty": true, "lease": true, "writer": {"pid": null, "uid": null, "session": null, "command": null}}',X'','queued',NULL,NULL,NULL,1700000001.25,NULL,NULL,NULL,NULL,NULL,3914951404,NULL);
INSERT INTO "job" VALUES(3,'{"cmd": "echo \udcfe; printf ''\u001b''", "argv": null, "directory": "/", "name": null, "cwd": "sub", "umask": 63, "stdin": "none", "limit": 10485760, "timeout": null, "grace": 5.0, "nice": null, "pty": false, "lease": false, "writer": {"pid": null, "uid": null, "session": null, "command": null}}',X'','cancelled',NULL,NULL,NULL,1700000002.25,NULL,1700000009.0,NULL,'{"cpu_user_s": null, "cpu_system_s": null, "rss_bytes": null, "max_rss_bytes": null, "processes": null, "lingering": null}',NULL,403836986,1320611566);
CREATE TABLE property (name TEXT PRIMARY KEY, value TEXT NOT NULL);
INSERT INTO "property" VALUES('created_at','1700000000.0');
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('job',4);
COMMIT;
PRAGMA user_version=3;
