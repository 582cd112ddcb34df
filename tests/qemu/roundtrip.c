/* How long this kernel takes to answer the smallest question about a link, from send() to the end of recv(): what the
 * time of a switch is compared with. roundtrip IFINDEX COUNT prints the median and the longest in microseconds. */
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

static int by_size(const void *a, const void *b)
{
	long x = *(const long *)a, y = *(const long *)b;
	return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
	int index = argc > 1 ? atoi(argv[1]) : 1, count = argc > 2 ? atoi(argv[2]) : 1000;
	long *times = calloc(count, sizeof *times);
	static char answer[16384];
	struct sockaddr_nl kernel = { .nl_family = AF_NETLINK };
	struct { struct nlmsghdr head; struct ifinfomsg link; } question = {
		.head = { .nlmsg_len = sizeof question, .nlmsg_type = RTM_GETLINK, .nlmsg_flags = NLM_F_REQUEST },
		.link = { .ifi_index = index },
	};
	int fd = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);

	if (fd < 0 || !times || connect(fd, (struct sockaddr *)&kernel, sizeof kernel))
		return perror("netlink"), 1;
	for (int i = 0; i < count; i++) {
		struct timespec from, to;
		clock_gettime(CLOCK_MONOTONIC, &from);
		if (send(fd, &question, sizeof question, 0) < 0 || recv(fd, answer, sizeof answer, 0) < 0)
			return perror("question"), 1;
		clock_gettime(CLOCK_MONOTONIC, &to);
		if (((struct nlmsghdr *)answer)->nlmsg_type != RTM_NEWLINK)
			return fprintf(stderr, "no link %d\n", index), 1;
		times[i] = (to.tv_sec - from.tv_sec) * 1000000 + (to.tv_nsec - from.tv_nsec) / 1000;
	}
	qsort(times, count, sizeof *times, by_size);
	printf("%ld %ld\n", times[count / 2], times[count - 1]);
	return 0;
}
