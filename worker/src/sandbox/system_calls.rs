//! The system calls that a worker is denied (seccomp).
//!
//! A list of what is denied, not of what is allowed: the C library, OpenSSL, SQLite and libssh2 choose their calls anew
//! with each update, and a feed that stops at night since a library now calls `statx` protects nobody. What is denied
//! answers EPERM, as a system without privileges would; nothing is killed for asking.

use nix::libc;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen as Length, SeccompCmpOp as Is,
    SeccompCondition, SeccompFilter, SeccompRule, sock_filter,
};
use std::collections::BTreeMap;

/// Other processes, other programs, other privileges, other name spaces; the kernel itself.
const DENIED: &[i64] = &[
    // Looking into and steering other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_kcmp,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_send_signal,
    libc::SYS_tkill,
    libc::SYS_shmget,
    libc::SYS_shmat,
    libc::SYS_semget,
    libc::SYS_msgget,
    libc::SYS_mq_open,
    // Other programs.
    libc::SYS_execve,
    libc::SYS_execveat,
    // A port of its own: the master listens.
    libc::SYS_listen,
    // Other identities and name spaces.
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setgroups,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_capset,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_personality,
    libc::SYS_chroot,
    libc::SYS_pivot_root,
    // The tree of mounts, and ways round paths.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_open_by_handle_at,
    libc::SYS_mknodat,
    libc::SYS_fanotify_init,
    // The kernel and the machine.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_userfaultfd,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_syslog,
    libc::SYS_vhangup,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_fork,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_vfork,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_mknod,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
];

/// Puts the filters in force, for this thread and all that it starts.
///
/// # Errors
/// What the system says.
pub fn restrict() -> Result<(), String> {
    let programs = programs(std::process::id()).map_err(|error| error.to_string())?;
    for program in &programs {
        seccompiler::apply_filter(program).map_err(|error| error.to_string())?;
    }
    Ok(())
}

fn programs(own_pid: u32) -> Result<Vec<BpfProgram>, BackendError> {
    let denied = DENIED.iter().map(|call| (*call, Vec::new()));
    let rules = denied.chain(conditional(u64::from(own_pid))?).collect();
    // Its flags are behind a pointer, where no filter looks. Told that there is no such call, the C library takes `clone`.
    let no_clone3 = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let mut programs = vec![program(rules, libc::EPERM)?, program(no_clone3, libc::ENOSYS)?];
    if cfg!(target_arch = "x86_64") {
        programs.push(no_x32());
    }
    Ok(programs)
}

fn program(rules: BTreeMap<i64, Vec<SeccompRule>>, errno: i32) -> Result<BpfProgram, BackendError> {
    let deny = SeccompAction::Errno(errno.unsigned_abs());
    SeccompFilter::new(rules, SeccompAction::Allow, deny, std::env::consts::ARCH.try_into()?)?.try_into()
}

/// What is denied for some arguments only. A rule's conditions hold together; any rule of a call suffices.
fn conditional(own_pid: u64) -> Result<Vec<(i64, Vec<SeccompRule>)>, BackendError> {
    let when = |argument, is: Is, value| SeccompCondition::new(argument, Length::Dword, is, value);
    let one = |condition| SeccompRule::new(vec![condition]);
    let not_us = || Ok::<_, BackendError>(vec![one(when(0, Is::Ne, own_pid)?)?]);
    let number = |value: i32| u64::from(value.unsigned_abs());
    // Local sockets lead to the control socket, to nscd and to D-Bus; the resolver does without them. Netlink tells the
    // resolver which addresses this machine has.
    let family_allowed = [libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];
    let families = family_allowed.map(|family| when(0, Is::Ne, number(family)));
    let thread = libc::CLONE_THREAD as u64;
    Ok(vec![
        (libc::SYS_socket, vec![SeccompRule::new(families.into_iter().collect::<Result<_, _>>()?)?]),
        (libc::SYS_clone, vec![one(when(0, Is::MaskedEq(thread), 0)?)?]),
        (libc::SYS_kill, not_us()?),
        (libc::SYS_tgkill, not_us()?),
        (libc::SYS_rt_sigqueueinfo, not_us()?),
        (libc::SYS_rt_tgsigqueueinfo, not_us()?),
        (libc::SYS_prlimit64, vec![SeccompRule::new(vec![when(0, Is::Ne, 0)?, when(0, Is::Ne, own_pid)?])?]),
        // Keystrokes put into an operator's terminal, where standard error is one.
        (libc::SYS_ioctl, vec![one(when(1, Is::Eq, libc::TIOCSTI)?)?, one(when(1, Is::Eq, TIOCLINUX)?)?]),
        (
            libc::SYS_prctl,
            vec![
                one(when(0, Is::Eq, number(libc::PR_SET_DUMPABLE))?)?,
                one(when(0, Is::Eq, number(libc::PR_SET_PTRACER))?)?,
            ],
        ),
    ])
}

/// `ioctl_console`(2).
const TIOCLINUX: u64 = 0x541C;

/// The second set of numbers for the same calls that x86-64 kernels may know: without this, every call above has another
/// name. In the language of `seccomp`(2): load the number; is bit 30 set; EPERM; go on.
fn no_x32() -> BpfProgram {
    const X32_BIT: u32 = 0x4000_0000;
    let (load, jump_if_set, give) = (
        libc::BPF_LD | libc::BPF_W | libc::BPF_ABS,
        libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K,
        libc::BPF_RET | libc::BPF_K,
    );
    let line = |code: u32, jt, jf, k| sock_filter { code: code as u16, jt, jf, k };
    let deny = u32::from(SeccompAction::Errno(libc::EPERM.unsigned_abs()));
    vec![
        line(load, 0, 0, 0),
        line(jump_if_set, 0, 1, X32_BIT),
        line(give, 0, 0, deny),
        line(give, 0, 0, u32::from(SeccompAction::Allow)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_call_is_denied_twice_and_the_filters_fit_the_kernel() {
        let mut numbers = DENIED.to_vec();
        numbers.extend(conditional(1).unwrap().iter().map(|(number, _)| *number));
        let all = numbers.len();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), all);
        for program in programs(1).unwrap() {
            assert!((1..4096).contains(&program.len()));
        }
    }
}
