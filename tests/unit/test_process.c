/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/process.h"

static void processes(void **state)
{
	struct ds_process self;
	struct ds_process child;
	struct ds_error err;
	siginfo_t info;

	assert_int_equal(ds_process_identify(getpid(), &self, &err), 0);
	assert_int_equal(self.pid, getpid());
	assert_true(self.start_ticks > 0);
	assert_int_equal(ds_process_alive(&self), 1);
	self.start_ticks++;
	assert_int_equal(ds_process_alive(&self), 0);
	assert_int_equal(ds_process_alive(&(struct ds_process){0}), 0);
	assert_int_equal(ds_process_alive(&(struct ds_process){.pid = -1}), 0);

	pid_t pid = fork();
	if (!pid) {
		pause();
		_exit(0);
	}
	assert_int_equal(ds_process_identify(pid, &child, &err), 0);
	assert_int_equal(ds_process_alive(&child), 1);
	kill(pid, SIGKILL);
	/* Dead but not reaped: on the GPU it is gone. */
	assert_int_equal(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT), 0);
	assert_int_equal(ds_process_alive(&child), 0);
	assert_int_equal(ds_process_identify(pid, &self, &err), -1);
	assert_int_equal(errno, ESRCH);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	assert_int_equal(ds_process_alive(&child), 0);
	assert_int_equal(ds_process_identify(pid, &self, &err), -1);
	assert_int_equal(errno, ENOENT);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
	    cmocka_unit_test(processes),
	};

	alarm(60);
	return cmocka_run_group_tests_name("process", tests, NULL, NULL);
}
