"""An SFTP server unlike OpenSSH's, of PyPI asyncssh: PORT HOST_KEY FOLDER METHOD.

User hl7 with the password "open sesame", by METHOD `password` or `keyboard-interactive` only. Files go below FOLDER. It
knows no fsync@openssh.com, and its rename replaces what stands under the new name, as some servers' does.
"""

import asyncio
import os
import sys

import asyncssh

port, host_key, folder, method = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
USER, PASSWORD = "hl7", "open sesame"


class Login(asyncssh.SSHServer):
    def begin_auth(self, username):
        return True

    def password_auth_supported(self):
        return method == "password"

    def validate_password(self, username, password):
        return (username, password) == (USER, PASSWORD)

    def kbdint_auth_supported(self):
        return method == "keyboard-interactive"

    def get_kbdint_challenge(self, username, lang, submethods):
        return "", "", "", [("Password: ", False)]

    def validate_kbdint_response(self, username, responses):
        return username == USER and responses == [PASSWORD]


class Files(asyncssh.SFTPServer):
    def __init__(self, channel):
        super().__init__(channel, chroot=folder)

    def fsync(self, file_obj):
        raise asyncssh.SFTPOpUnsupported("no fsync here")

    def rename(self, oldpath, newpath):
        os.replace(self.map_path(oldpath), self.map_path(newpath))


async def main():
    await asyncssh.listen(
        "127.0.0.1", port, server_host_keys=[host_key], server_factory=Login, sftp_factory=Files, process_factory=None
    )
    await asyncio.Event().wait()


asyncio.run(main())
